"""From Arrow tables to a source: which columns hold images, labels and owners, and what their values mean."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedkd.data.decode import decode_images
from fedkd.data.source import Source, hold_out
from fedkd.data.tables import Table
from fedkd.errors import InputError, unknown

MARKS = {  # of each option: Hugging Face's type, and the usual names
    "image_column": ("Image", ("image", "img")),
    "label_column": ("ClassLabel", ("label", "labels")),
}


def read_source(
    name: str, tables: Mapping[str, Table], image_column: str = "", label_column: str = "", natural_column: str = ""
) -> Source:
    """Decode the splits of a data set.

    The test split is ``test``, else ``validation``; where there is neither, a fixed 20 % of the train split.
    """
    train, test = _train_and_test(name, tables)
    image = _choose(name, train, "image_column", image_column, _may_be_images)
    label = _choose(name, train, "label_column", label_column, _may_be_labels)
    groups = _groups(name, train, natural_column) if natural_column else None
    images = _images(name, train, image)
    if test is None:
        labels, classes = _labels(name, [train], label)
        kept, held = hold_out(len(images), 0.2)
        groups = groups if groups is None else groups[kept]
        return Source(name, images[kept], labels[0][kept], images[held], labels[0][held], classes, groups)
    labels, classes = _labels(name, [train, test], label)
    return Source(name, images, labels[0], _images(name, test, image), labels[1], classes, groups)


def _train_and_test(name: str, tables: Mapping[str, Table]) -> tuple[Table, Table | None]:
    if len(tables) == 1:
        return next(iter(tables.values())), None
    if "train" not in tables:
        raise InputError(f"data source {name!r} has no train split, only {', '.join(sorted(tables))}")
    names = ("test", "validation", "valid", "val", "dev")
    return tables["train"], next((tables[split] for split in names if split in tables), None)


def _features(table: Table) -> dict[str, Any]:
    """Hugging Face's description of the columns, empty where the file has none."""
    text = (table.schema.metadata or {}).get(b"huggingface")
    features = json.loads(text)["info"].get("features") if text else None
    return features or {}


def _may_be_images(table: Table, column: str) -> bool:
    import pyarrow.types as types

    kind = table.schema.field(column).type
    if types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _may_be_labels(table: Table, column: str) -> bool:
    import pyarrow.types as types

    kind = table.schema.field(column).type
    tests = (types.is_integer, types.is_boolean, types.is_string, types.is_large_string)
    return any(test(kind) for test in tests)


def _choose(name: str, table: Table, option: str, given: str, fits: Callable[[Table, str], bool]) -> str:
    """The column the user named, else the only one it can be by its declared type, its name or its storage."""
    if given:
        _require(name, table, option, given)
        if not fits(table, given):
            kind = table.schema.field(given).type
            raise InputError(f"data source {name!r}: column {given!r} ({kind}) does not fit data.{option}")
        return given
    declared, usual = MARKS[option]
    features = _features(table)
    fitting = [column for column in table.column_names if fits(table, column)]
    choices: tuple[list[str], ...] = (
        [column for column in fitting if features.get(column, {}).get("_type") == declared],
        [column for column in fitting if column in usual],
        fitting,
    )
    for candidates in choices:
        if len(candidates) == 1:
            return candidates[0]
    raise InputError(
        f"data source {name!r}: cannot tell the {option.replace('_', ' ')} among {', '.join(table.column_names)}; "
        f"set data.{option}"
    )


def _require(name: str, table: Table, option: str, column: str) -> None:
    if column not in table.column_names:
        raise unknown(f"data.{option} of source {name!r}:", column, table.column_names)


def _refuse_gaps(name: str, table: Table, column: str) -> None:
    if table[column].null_count:
        raise InputError(f"data source {name!r}: some values of column {column!r} are missing")


def _images(name: str, table: Table, column: str) -> Tensor:
    """The images (N, C, H, W) uint8 of a column of encoded images: bytes, or {bytes, path}."""
    _require(name, table, "image_column", column)
    encoded: list[bytes | str | None] = []
    for chunk in table[column].chunks:
        if hasattr(chunk, "field"):  # a struct
            paths = chunk.field("path").to_pylist() if chunk.type.get_field_index("path") >= 0 else [None] * len(chunk)
            encoded += [data or path for data, path in zip(chunk.field("bytes").to_pylist(), paths, strict=True)]
        else:
            encoded += chunk.to_pylist()
    return decode_images(encoded, where=f"data source {name!r}, column {column!r}")


def _labels(name: str, tables: list[Table], column: str) -> tuple[list[Tensor], tuple[str, ...]]:
    """Class numbers of each table, and the classes' names: Hugging Face's, or else the values in sorted order."""
    for table in tables:
        _require(name, table, "label_column", column)
        _refuse_gaps(name, table, column)
    values = [table[column].to_numpy() for table in tables]
    names = _features(tables[0]).get(column, {}).get("names")
    if names and np.issubdtype(values[0].dtype, np.integer):
        return [torch.from_numpy(part.astype(np.int64)) for part in values], tuple(names)
    known, numbers = np.unique(np.concatenate(values), return_inverse=True)
    parts = torch.split(torch.from_numpy(numbers.astype(np.int64)), [len(part) for part in values])
    return list(parts), tuple(str(value) for value in known)


def _groups(name: str, table: Table, column: str) -> Tensor:
    """The number of each image's owner: (N,) int64, 0.. in sorted order of the column's values."""
    _require(name, table, "natural_column", column)
    _refuse_gaps(name, table, column)
    _, numbers = np.unique(table[column].to_numpy(), return_inverse=True)
    return torch.from_numpy(numbers.astype(np.int64))
