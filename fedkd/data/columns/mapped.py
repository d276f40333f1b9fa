"""Columns of lists in Arrow files, as a data set has that was saved by Hugging Face's library: large ones are read by rows."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_map

from fedkd.data.arrays import channels_first
from fedkd.data.columns.arrow import Part, is_of_lists
from fedkd.data.kinds.tokens import TOKEN_IDS
from fedkd.data.rows import Mapped
from fedkd.data.tables import ARROW_FILES

#: Columns of fewer bytes are read whole.
LARGE = 2**28
#: The types of pixels that are kept as they are; real numbers of more bits are rounded to float32.
PIXELS = tuple(np.dtype(kind) for kind in ("uint8", "uint16", "float16", "float32"))


@final
@dataclass(frozen=True)
class Layout:
    """How the rows of some columns make one tensor."""

    files: tuple[str, ...]
    columns: tuple[str, ...]  # several are joined along the last axis
    dtype: str  # what their numbers become
    signal: bool = False  # (L,) becomes (L, 1)

    def arrange(self, block: NDArray[Any]) -> NDArray[Any]:
        """The rows of a column (n, ...) with the axes of a sample, as a view. ValueError for another number of axes."""
        axes = 3 if self.signal else 2 if self.dtype == "int64" else 4
        block = block[..., None] if self.signal and block.ndim == 2 else block
        if block.ndim != axes:
            raise ValueError(f"{block.ndim} axes, not {axes}")
        return channels_first(block) if axes == 4 else block


@final
class MappedColumns(Mapped):
    """A tensor over columns in Arrow files; whatever but an index is asked of it reads all rows first."""

    _layout: Layout
    _mappings: list[mmap.mmap]
    _blocks: list[tuple[NDArray[Any], ...]]
    _starts: NDArray[np.int64]
    _kept: NDArray[np.int64]

    @classmethod
    def of(cls, layout: Layout, kept: NDArray[np.int64] | None = None) -> MappedColumns:
        """Over these files.

        Args:
            layout: of a sample.
            kept: (N,) the rows of the files that it has, in their order; default, all.

        Raises:
            ValueError, OSError: the lists of the columns differ in shape, hold no numbers, or miss some.
        """
        mappings, blocks = [], []
        for file in layout.files:
            with open(file, "rb") as opened:
                mappings.append(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
            blocks += list(_blocks(mappings[-1], layout))
            mappings[-1].madvise(mmap.MADV_DONTNEED)
        sides = {(*block[0].shape[1:-1], sum(column.shape[-1] for column in block)) for block in blocks}
        if len(sides) != 1:
            raise ValueError(f"lists of {len(sides)} shapes")
        starts = np.cumsum([0, *(len(block[0]) for block in blocks)])
        kept = np.arange(starts[-1]) if kept is None else kept
        dtype = torch.from_numpy(np.empty(0, layout.dtype)).dtype
        mapped: MappedColumns = cls._make_wrapper_subclass(cls, (len(kept), *sides.pop()), dtype=dtype)
        mapped._layout, mapped._mappings, mapped._blocks, mapped._starts, mapped._kept = layout, mappings, blocks, starts, kept
        return mapped

    def __getitem__(self, index: Any) -> Tensor:
        first, *others = index if isinstance(index, tuple) else (index,)
        if others and isinstance(first, slice):
            return self[first][(slice(None), *others)]
        wanted = np.asarray(self._kept[first.numpy() if isinstance(first, Tensor) else first])
        rows, places = np.unique(wanted, return_inverse=True) if others else (wanted.reshape(-1), None)
        read = torch.from_numpy(self._read(rows))
        if places is not None:
            return read[(torch.from_numpy(places.reshape(wanted.shape)), *others)]
        return read.reshape(*wanted.shape, *self.shape[1:])

    def part(self, chosen: Tensor) -> Tensor:
        """Likewise on disk."""
        return MappedColumns.of(self._layout, self._kept[chosen.numpy()])

    def _read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """These rows of the files (n, ...)."""
        found = np.empty((len(rows), *self.shape[1:]), self._layout.dtype)
        order = np.argsort(rows, kind="stable")
        block_of = np.searchsorted(self._starts, rows[order], side="right") - 1
        for block, begin, count in zip(*np.unique(block_of, return_index=True, return_counts=True), strict=True):
            places = order[begin : begin + count]
            inside, side = rows[places] - self._starts[block], 0
            for column in self._blocks[block]:
                found[places, ..., side : side + column.shape[-1]] = column[inside]
                side += column.shape[-1]
        for mapping in self._mappings:
            mapping.madvise(mmap.MADV_DONTNEED)
        return found

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        args, kwargs = tree_map(lambda held: held[:] if isinstance(held, cls) else held, (args, kwargs or {}))
        return func(*args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> Any:
        everything = len(self._kept) == self._starts[-1] and bool((np.diff(self._kept) == 1).all())
        return partial(MappedColumns.of, self._layout, None if everything else self._kept), ()


def mapped_columns(part: Part, columns: Sequence[str]) -> Tensor | dict[str, Tensor] | None:
    """Columns of lists as ``Lists`` reads them, but by rows; None where they are small, in no Arrow file, or not so plain."""
    table = part.tables[0]
    if len(part.tables) > 1 or sum(table[column].nbytes for column in columns) < LARGE:
        return None
    files = tuple(json.loads((table.schema.metadata or {}).get(ARROW_FILES, b"[]")))
    try:
        mapped = {layout.columns[0]: MappedColumns.of(layout) for layout in _layouts(table, files, tuple(columns))}
    except (OSError, ValueError, NotImplementedError):
        return None  # to read them whole says what is wrong with them
    if any(len(tensor) != len(part) for tensor in mapped.values()):
        return None  # rows have been left out
    return {**mapped} if len(mapped) > 1 else mapped[columns[0]]


def _layouts(table: Any, files: tuple[str, ...], columns: tuple[str, ...]) -> list[Layout]:
    """Of each tensor. ValueError where its numbers would have to be looked at first."""
    if TOKEN_IDS in columns:
        return [Layout(files, (column,), "int64") for column in columns]
    stored, axes = _stored(table.schema.field(columns[0]).type)
    if axes != 4 or len(columns) > 1:
        return [Layout(files, columns, "float32", signal=True)]
    if stored.kind != "f" and stored not in PIXELS:
        raise ValueError("the range of pixels says how they are kept")
    return [Layout(files, columns, str(stored) if stored in PIXELS else "float32")]


def _stored(kind: Any) -> tuple[np.dtype[Any], int]:
    """The type of the numbers in lists of an Arrow type, and how many axes an array of them has."""
    axes = 1
    while is_of_lists(kind := getattr(kind, "storage_type", kind)):
        kind, axes = kind.value_type, axes + 1
    return np.dtype(kind.to_pandas_dtype()), axes


def _blocks(mapping: mmap.mmap, layout: Layout) -> Iterator[tuple[NDArray[Any], ...]]:
    """The columns of each of a file's record batches, as views of what lies on disk."""
    import pyarrow

    for batch in pyarrow.ipc.open_stream(pyarrow.py_buffer(mapping)):
        if len(batch):
            block = tuple(layout.arrange(_block(batch[column])) for column in layout.columns)
            if len({column.shape[:-1] for column in block}) > 1:
                raise ValueError("lists of one row that differ in shape")
            yield block


def _block(values: Any) -> NDArray[Any]:
    """Lists as an array (n, ...). ValueError where they differ in length, or miss a value."""
    import pyarrow.compute as compute

    shape = [len(values)]
    while is_of_lists((values := getattr(values, "storage", values)).type):
        lengths = compute.min_max(compute.list_value_length(values)).as_py()
        if values.null_count or lengths["min"] != lengths["max"] or not lengths["min"]:
            raise ValueError("lists of several lengths, or none")
        shape.append(lengths["min"])
        values = values.flatten()
    return np.asarray(values.to_numpy(zero_copy_only=True)).reshape(shape)
