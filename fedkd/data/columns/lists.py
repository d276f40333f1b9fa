"""Columns of lists of numbers: signals, token ids, or arrays of pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedkd.base.errors import InputError
from fedkd.base.inputs import Inputs
from fedkd.data.arrays import inputs_of
from fedkd.data.columns.arrow import Part, column_of, is_of_lists
from fedkd.data.columns.mapped import mapped_columns
from fedkd.data.columns.missing import refuse_missing
from fedkd.data.columns.reader import Read, Reader
from fedkd.data.kinds.tokens import TOKEN_IDS

#: What a row without a list needs.
CURE = "set data.missing = 'drop' to leave those rows out"


@final
@dataclass(frozen=True)
class Lists(Reader):
    """A list is a signal over time, several columns are its features; ``input_ids`` and what stands beside it are tokens."""

    columns: tuple[str, ...]

    def read(self, train: Part, test: Part | None, kept: Tensor) -> Read:
        """float32 (N, L, F); int64 (N, L), by column where there are several; pixels (N, C, H, W)."""
        return Read(self._inputs(train), None if test is None else self._inputs(test))

    def _inputs(self, part: Part) -> Inputs:
        if (mapped := mapped_columns(part, self.columns)) is not None:
            return mapped
        arrays = {column: array_of_lists(part, column) for column in self.columns}
        first = arrays[self.columns[0]]
        if TOKEN_IDS in arrays:
            tokens = {name: torch.from_numpy(array.astype(np.int64)) for name, array in arrays.items()}
            return tokens if len(tokens) > 1 else tokens[TOKEN_IDS]
        if len(arrays) == 1 and first.ndim == 4:
            return inputs_of(f"column {self.columns[0]!r}", first)
        signals = [array[..., None] if array.ndim == 2 else array for array in arrays.values()]
        lengths = {array.shape[1] for array in signals}
        if len(lengths) > 1 or any(array.ndim != 3 for array in signals):
            shapes = ", ".join(f"{name} {array.shape[1:]}" for name, array in arrays.items())
            raise InputError(f"the columns' lists differ in shape ({shapes}): name those of one length in data.feature_columns")
        return torch.from_numpy(np.concatenate(signals, axis=2).astype(np.float32))


def array_of_lists(part: Part, column: str) -> NDArray[Any]:
    """(N, L), or (N, L, F) of lists of lists: all of one length."""
    return np.concatenate([_of_table(part, table, column) for table in part.tables])


def _of_table(part: Part, table: Any, column: str) -> NDArray[Any]:
    import pyarrow.compute as compute
    import pyarrow.types as types

    values = column_of(table, column, where := part.where(table)).combine_chunks()
    rows, shape = len(values), [len(values)]
    refuse_missing(part, column, np.asarray(values.is_null()), CURE)
    while True:
        values = getattr(values, "storage", values)
        kind = values.type
        if not is_of_lists(kind):
            break
        lengths = np.asarray(compute.list_value_length(values))
        if len(lengths) and lengths.min() != lengths.max():
            row = int((lengths != lengths[0]).argmax()) // max(len(lengths) // max(rows, 1), 1)
            longest = f"{lengths.min()} to {lengths.max()} values, row {row} differs from the first"
            raise InputError(f"column {column!r} of {where} holds lists of {longest}: pad or cut them to one length")
        shape.append(int(lengths[0]) if len(lengths) else 0)
        values = values.flatten()
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
        raise InputError(
            f"column {column!r} of {where} holds lists of {kind}, not of numbers: leave it out of data.feature_columns"
        )
    numbers = values.to_numpy(zero_copy_only=False)
    if values.null_count:
        row = int(np.asarray(values.is_null()).argmax()) // max(len(values) // max(rows, 1), 1)
        raise InputError(f"a list of column {column!r} in {where} misses a value, in row {row}: fill it in, or drop that row")
    return np.asarray(numbers).reshape(shape)
