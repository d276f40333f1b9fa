"""The values of a partition's arguments, before anything is drawn: of the right kind, and possible."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from inspect import Parameter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError

from fedkd.base.errors import InputError

#: Argument -> the least that it may be, for each number of a list.
LEAST = {
    "min_partition_size": 0,
    "num_shards_per_partition": 1,
    "shard_size": 1,
    "num_classes_per_partition": 1,
    "num_unique_labels_per_partition": 1,
    "preassigned_num_samples_per_label": 0,
    "group_size": 1,
    "partition_sizes": 1,
}
#: Arguments that must be larger than 0.
POSITIVE = ("alpha",)


def check_values(
    name: str, arguments: Mapping[str, Any], parameters: Mapping[str, Parameter], *, clients: int | None = None
) -> None:
    """Raise InputError, naming the argument and its value, for one that the partition of this name cannot take.

    Args:
        name: the partition's.
        arguments: those given; their names are known.
        parameters: those that the partition takes, with their types.
        clients: how many, where lists have an entry for each; None leaves their lengths unchecked.
    """
    for key, value in arguments.items():
        if not _fits(value, parameters[key].annotation):
            raise InputError(f"data.{key} = {value!r}: {_in_words(parameters[key].annotation)} belongs here")
        numbers = _numbers(value)
        if key in POSITIVE and not all(0 < number < math.inf for number in numbers):
            raise InputError(f"data.{key} = {value!r}: must be larger than 0")
        if key in LEAST and any(number < LEAST[key] or number % 1 for number in numbers):
            raise InputError(f"data.{key} = {value!r}: must be at least {LEAST[key]}, in whole numbers")
        if clients and isinstance(value, Sequence) and key in ("alpha", "partition_sizes") and len(value) != clients:
            raise InputError(f"data.{key}: it has {len(value)} numbers: give one for each of the {clients} clients")
    if name == "shard" and arguments.keys().isdisjoint(("num_shards_per_partition", "shard_size")):
        raise InputError("data.partition 'shard' needs data.num_shards_per_partition, data.shard_size, or both")


def _fits(value: object, annotation: Any) -> bool:
    """Whether it is of the annotated type: a list of numbers where an array is asked for, no true or false for a number."""
    plain = list(value) if isinstance(value, tuple) else value
    adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True, strict=True))
    for candidate in (plain, *_as_array(plain)):
        with suppress(ValidationError):
            adapter.validate_python(candidate)
            return True
    return False


def _as_array(value: object) -> Iterator[NDArray[Any]]:
    with suppress(ValueError):  # rows of different lengths
        if isinstance(value, list) and (array := np.asarray(value)).dtype.kind in "iuf":
            yield array


def _in_words(annotation: Any) -> str:
    text = str(annotation)
    for kind, words in (
        ("Literal", f"one of {text.partition('Literal')[2]}"),
        ("bool", "true or false"),
        ("int |", "a number"),
    ):
        if kind in text:
            return words
    lists, numbers = ("list", "Sequence", "ndarray"), {"float": "a number", "int": "a whole number"}
    return (
        "a list of numbers" if any(kind in text for kind in lists) else next(numbers[kind] for kind in numbers if kind in text)
    )


def _numbers(value: object) -> list[float]:
    if isinstance(value, list | tuple):
        return [number for part in value for number in _numbers(part)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []
