"""flwr-datasets' partitioners by name. It imports flwr_datasets, so partition.py imports it only where one is named.

The classes are found by looking, so a partitioner that flwr-datasets adds is known here at once.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from flwr_datasets import partitioner
from torch import Tensor

from fedkd.base.errors import InputError
from fedkd.base.randomness import derive
from fedkd.data.dealing import Partition, by_label, in_drawn_order, owners_of, shuffled

FILLED_IN = {"num_partitions", "partition_by", "seed"}  # from data.clients, the labels or owners, and the run's seed
NUMBERED = {"distribution", "exponential", "inner_dirichlet", "linear", "size", "square"}  # a client's number says what it gets
NO_FIT = {"id_to_size_fnc", "vertical_even", "vertical_size"}  # one takes a function, two deal out columns


def partitioners() -> dict[str, Any]:
    """The classes by our names for them: ``ShardPartitioner`` is ``shard``."""
    shortened = {kind: kind.removesuffix("Partitioner") for kind in partitioner.__all__}
    names = {kind: re.sub(r"(?<=[a-z])(?=[A-Z])", "_", short).lower() for kind, short in shortened.items()}
    return {name: getattr(partitioner, kind) for kind, name in names.items() if name and name not in NO_FIT}


def parameters(name: str) -> dict[str, inspect.Parameter]:
    """The arguments of a partitioner by name, but for those that are filled in."""
    taken = inspect.signature(partitioners()[name]).parameters
    return {key: parameter for key, parameter in taken.items() if key not in FILLED_IN}


def flower_partition(name: str, arguments: Mapping[str, Any], *, clients: int, seed: int) -> Partition:
    """A function that deals out samples by the partitioner of that name; see make_partition."""
    kind = partitioners()[name]
    column = "group" if "natural_id" in name else "label"
    given = {"num_partitions": clients, "partition_by": column, "seed": derive(seed, "partition")}
    filled_in = {key: given[key] for key in inspect.signature(kind).parameters if key in given}
    values: dict[str, Any] = filled_in | {key: _plain(value) for key, value in arguments.items()}

    def deal(labels: Tensor, groups: Tensor | None) -> list[Tensor]:
        def parts_of(keys: Tensor) -> list[Tensor]:
            with _translated(name, clients):
                return _draw(kind(**values), column, keys, seed)

        if column == "group":
            parts = parts_of(owners_of(groups, name))
        elif "partition_by" in filled_in:
            parts = by_label(name, labels, parts_of, seed)
        else:
            parts = parts_of(labels)
        return parts if _is_numbered(name, values) else shuffled(parts, seed)

    with _translated(name, clients):
        kind(**values)  # a constructor checks some of the values, so say now what is wrong
    return deal


def _is_numbered(name: str, values: Mapping[str, Any]) -> bool:
    """Whether a client's number says what it gets, so that parts must not change hands."""
    deterministic = "deterministic" in str(values.get("class_assignment_mode", ""))
    return name in NUMBERED or deterministic or bool(values.get("sort_unique_ids", False))


class _Rows(Dataset):  # type: ignore[misc]
    """A data set whose columns are arrays and whose selections are row numbers: 10,000 real ones would take 10 s."""

    def __getitem__(self, column: str) -> Any:
        return self.data.column(column).to_numpy()

    def select(self, indices: Any, *unused: Any, **options: Any) -> Any:
        return self["row"][np.asarray(indices, dtype=np.int64)]

    def sort(self, column_names: str, *unused: Any, **options: Any) -> _Rows:
        order = np.argsort(self[column_names], kind="stable")
        columns = {name: self[name][order] for name in self.column_names}
        return cast(_Rows, _Rows.from_dict(columns))


def _draw(dealer: Any, column: str, keys: Tensor, seed: int) -> list[Tensor]:
    """Each client's rows, of samples with these labels or owners (N,)."""
    order, numbers = in_drawn_order(keys, seed)  # some dealers take for granted that no label is absent
    dealer.dataset = _Rows.from_dict({"row": order.numpy(), column: numbers.numpy()})
    return [torch.from_numpy(dealer.load_partition(client)) for client in range(dealer.num_partitions)]


@contextmanager
def _translated(name: str, clients: int) -> Iterator[None]:
    """Whatever a partitioner raises, as one line for the user."""
    try:
        yield
    except (ArithmeticError, AssertionError, LookupError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"data.partition {name!r}, {clients} clients: {reason}") from error


def _plain(value: Any) -> Any:
    """A value as the partitioners take it: sequences as lists, tables as arrays."""
    if not isinstance(value, (list, tuple)):
        return value
    return np.asarray(value) if value and isinstance(value[0], (list, tuple)) else list(value)
