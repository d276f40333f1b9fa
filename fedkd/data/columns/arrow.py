"""What Arrow says of a table's columns, and their values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkd.base.errors import InputError
from fedkd.data.layout import some
from fedkd.data.tables import FILE, Table


@dataclass(frozen=True)
class Part:
    """A split: its name, and its tables."""

    name: str
    tables: Sequence[Table]

    def where(self, table: Table) -> str:
        """A table in words: its file, where there are several."""
        file = (table.schema.metadata or {}).get(FILE, b"").decode(errors="replace")
        return file if file and len(self.tables) > 1 else f"the {self.name} split"

    def __len__(self) -> int:
        return sum(len(table) for table in self.tables)


def features_of(table: Table) -> dict[str, Any]:
    """Hugging Face's description of the columns, empty where the file has none."""
    text = (table.schema.metadata or {}).get(b"huggingface")
    features = json.loads(text)["info"].get("features") if text else None
    return features or {}


def declared(table: Table, kind: str) -> str:
    """The column of a declared type; empty where there is none."""
    return next((column for column, feature in features_of(table).items() if feature.get("_type") == kind), "")


def type_of(table: Table, column: str) -> Any:
    """Of a column's values: of a category, that of its names; of an extension, how it is stored."""
    import pyarrow.types as types

    kind = table.schema.field(column).type
    kind = kind.value_type if types.is_dictionary(kind) else kind
    return getattr(kind, "storage_type", kind)


def is_image(table: Table, column: str) -> bool:
    """Whether it may hold encoded images."""
    import pyarrow.types as types

    kind = type_of(table, column)
    if types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def is_text(table: Table, column: str) -> bool:
    """Whether it holds text."""
    import pyarrow.types as types

    kind = type_of(table, column)
    return any(test(kind) for test in (types.is_string, types.is_large_string, types.is_string_view))


def is_whole(table: Table, column: str) -> bool:
    """Whether it holds whole numbers, or true and false."""
    import pyarrow.types as types

    kind = type_of(table, column)
    return bool(types.is_integer(kind) or types.is_boolean(kind))


def is_number(table: Table, column: str) -> bool:
    """Whether it holds numbers, true and false, or nothing at all."""
    import pyarrow.types as types

    kind = type_of(table, column)
    return is_whole(table, column) or any(test(kind) for test in (types.is_floating, types.is_decimal, types.is_null))


def is_list(table: Table, column: str) -> bool:
    """Whether each value is a list."""
    return is_of_lists(type_of(table, column))


def is_of_lists(kind: Any) -> bool:
    """Whether values of this Arrow type are lists."""
    import pyarrow.types as types

    return any(test(kind) for test in (types.is_list, types.is_large_list, types.is_fixed_size_list))


def column_of(table: Table, column: str, where: str) -> Any:
    """A column by its name, whatever its place; InputError where the table has none of this name."""
    if column not in table.column_names:
        raise InputError(f"{where} has no column {column!r}, only {some(table.column_names)}: rename it there")
    return table[column]


def full_column(table: Table, column: str, where: str) -> Any:
    """The same, without missing values."""
    values = column_of(table, column, where)
    if values.null_count:
        cure = "write -1 for no label" if is_whole(table, column) or is_text(table, column) else "fill them in"
        raise InputError(f"some values of column {column!r} are missing in {where}: {cure}, or drop those rows")
    return values


def values_of(column: Any) -> NDArray[Any]:
    """The values of a column (N,), categories by name."""
    import pyarrow.types as types

    values = (column.cast(column.type.value_type) if types.is_dictionary(column.type) else column).to_numpy()
    return np.asarray(values)
