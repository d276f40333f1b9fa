"""Data sets at hand in Python: arrays, frames, torch data sets, Hugging Face's. Each becomes a source."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from fedkd.base.errors import InputError
from fedkd.data.array_files import source_of_named
from fedkd.data.arrays import Split, array_of, source_of_arrays
from fedkd.data.options import Options
from fedkd.data.source import Source, with_channels

TAKEN = (
    "a fedkd.data.Source, (X, y) arrays, arrays by name, a pandas frame, a torch Dataset of (x, y), a datasets.Dataset or "
    "DatasetDict, or a pair (train, test) of these"
)
COLUMNS = ("feature_columns", "label_column", "client_column", "image_column", "missing", "tokens", "length")


@final
@dataclass(frozen=True, eq=False)
class Given:
    """A data set at hand as the function that gives it. Equal are those of the very same object."""

    data: Any

    def __call__(self) -> Any:
        """The data set."""
        return self.data

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Given) and other.data is self.data

    def __hash__(self) -> int:
        return id(self.data)


def is_taken(given: object) -> bool:
    """Whether a source can be made of an object of this type, as far as its type says."""
    if isinstance(given, Mapping | list) and not _is_hugging_face(given):  # and no table or list of an experiment file
        parts = list(given.values() if isinstance(given, Mapping) else given[:1])
        return bool(parts) and not any(isinstance(part, str | bool | int | float) for part in parts)
    return isinstance(given, Source | tuple) or _is_frame(given) or _is_hugging_face(given) or _is_map_style(given)


def source_of(given: object, name: str, options: Options) -> Source:
    """The source of what a user has at hand or a function gave.

    Args:
        given: what ``TAKEN`` lists.
        name: of the source, where it brings none.
        options: what is said of its columns, where it has some.

    Raises:
        InputError: it is none of these, or what it holds does not fit.
    """
    if isinstance(given, Source):
        options.refuse_but(what="the data set is a Source, which is read already")
        return with_channels(given, options.channels)
    if _is_tabular(given):
        return _of_tables(given, name, options)
    if isinstance(given, Mapping):
        options.refuse_but(what="the data set is arrays by name, without columns")
        return with_channels(source_of_named(name, given, options.held_out), options.channels)
    splits = _splits_of(given, name)
    if any(_is_text(split.inputs) or _is_frame(split.inputs) for split in splits):
        frames = [_frame_of(split) for split in splits]
        return _of_tables(tuple(frames) if len(frames) > 1 else frames[0], name, options)
    options.refuse_but(what="the data set is arrays, without columns")
    train, *rest = splits
    source = source_of_arrays(name, train, rest[0] if rest else None, _classes_of(given), held_out=options.held_out)
    return with_channels(source, options.channels)


def _of_tables(given: Any, name: str, options: Options) -> Source:
    """Of frames or Hugging Face's sets: a split, two, or several by name."""
    from fedkd.data.columns import read_source
    from fedkd.data.tables import Splits, tables_of

    options.refuse_but(*COLUMNS, what="the data set has no folders")
    if _is_hugging_face(given):
        return read_source(name, tables_of(given), options)
    parts = dict(zip(("train", "test"), given, strict=False)) if isinstance(given, tuple) else given
    parts = {"train": parts} if _is_frame(parts) else parts
    return read_source(name, Splits({str(split): [_table(part, str(split))] for split, part in parts.items()}), options)


def _table(part: Any, split: str) -> Any:
    import pyarrow

    from fedkd.data.tables import tables_of

    if _is_hugging_face(part):
        return tables_of(part).tables["train"][0]
    try:
        return pyarrow.Table.from_pandas(part, preserve_index=False)
    except (pyarrow.ArrowException, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"the {split} frame cannot be read: {reason}: keep one type of value in a column") from error


def _splits_of(given: object, name: str) -> list[Split]:
    """The one or two splits of (X, y), of a data set of (x, y), or of a pair of such."""
    if isinstance(given, tuple):
        if len(given) != 2:
            raise InputError(f"data source {name!r} is a tuple of {len(given)}: give (X, y), or (train, test)")
        if _is_split(given[0]) and _is_split(given[1]):
            return [split for part in given for split in _splits_of(part, name)]
        return [Split(*given)]
    if _is_map_style(given):
        return [_of_items(given, name)]
    raise InputError(f"data.source: {name} gives a {type(given).__name__}; fedkd takes {TAKEN}")


def _is_split(given: object) -> bool:
    return isinstance(given, tuple) or (_is_map_style(given) and not isinstance(given, list))


def _of_items(given: Any, name: str) -> Split:
    """The samples and labels of a map-style data set, whose items are (x, y)."""
    tensors = getattr(given, "tensors", None)
    if isinstance(tensors, tuple) and len(tensors) == 2:  # a TensorDataset: nothing to collect
        return Split(*tensors)
    items = [given[row] for row in range(len(given))]
    for row, item in enumerate(items):
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise InputError(f"data source {name!r}: item {row} is {_in_words(item)}, not a pair (x, y)")
    if not items:
        raise InputError(f"data source {name!r} is empty: it has no items")
    labels = [label.item() if _is_single(label) else label for _, label in items]
    return Split(_stacked([sample for sample, _ in items], name), labels)


def _is_single(label: Any) -> bool:
    """Whether it is an array or a tensor of one number."""
    return hasattr(label, "item") and hasattr(label, "shape") and int(np.prod(tuple(label.shape))) == 1


def _stacked(samples: Sequence[Any], name: str) -> Any:
    """Samples as one array, or one by name; texts as they are."""
    first = samples[0]
    if isinstance(first, Mapping):
        return {key: _stacked([sample[key] for sample in samples], name) for key in first}
    if isinstance(first, str):
        return list(samples)
    arrays = [array_of(f"data source {name!r}, item {row}", sample) for row, sample in enumerate(samples)]
    for row, array in enumerate(arrays):
        if array.shape != arrays[0].shape:
            shapes = f"item {row} has the shape {array.shape}, the first {arrays[0].shape}"
            raise InputError(f"data source {name!r}: {shapes}: pad or cut samples to one shape")
    return np.stack(arrays)


def _frame_of(split: Split) -> Any:
    """A frame of texts or of a frame's columns, and their labels."""
    import pandas

    labels = array_of("labels", split.labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise InputError(f"labels are {labels.shape}, several a sample: fedkd takes one class number a sample")
    frame = split.inputs.copy() if _is_frame(split.inputs) else pandas.DataFrame({"text": list(split.inputs)})
    if len(frame) != len(labels):
        raise InputError(f"there are {len(frame)} samples and {len(labels)} labels: give one for each")
    if "label" in frame.columns:
        raise InputError("X has a column called 'label' and y is given too: leave one out")
    return frame.assign(label=labels)


def _classes_of(given: object) -> tuple[str, ...] | None:
    """The names of the classes, where a data set has them as torchvision's do."""
    first = given[0] if isinstance(given, tuple) else given
    names = getattr(first, "classes", None)
    fits = isinstance(names, list | tuple) and len(names) and all(isinstance(each, str) for each in names)
    return tuple(names) if fits and names is not None else None


def _is_tabular(given: object) -> bool:
    if isinstance(given, Mapping) and not _is_hugging_face(given):
        return bool(given) and all(_is_frame(part) or _is_hugging_face(part) for part in given.values())
    if isinstance(given, tuple) and len(given) == 2 and all(_is_frame(part) or _is_hugging_face(part) for part in given):
        first, second = given
        return not (_is_frame(second) and second.shape[1] == 1 < first.shape[1])  # (X, y), with y a frame of one column
    return _is_frame(given) or _is_hugging_face(given)


def _is_frame(given: object) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(given, pandas.DataFrame)


def _is_hugging_face(given: object) -> bool:
    datasets = sys.modules.get("datasets")
    return datasets is not None and isinstance(given, datasets.Dataset | datasets.DatasetDict)


def _is_map_style(given: object) -> bool:
    """Whether items can be asked for by number, as of a torch Dataset."""
    arrays = (str, bytes, Mapping, np.ndarray, tuple)
    return (
        not isinstance(given, arrays)
        and not hasattr(given, "shape")
        and hasattr(given, "__getitem__")
        and hasattr(given, "__len__")
    )


def _is_text(given: object) -> bool:
    """Whether it is a list, array or series of texts."""
    if isinstance(given, list | np.ndarray):
        return len(given) > 0 and isinstance(given[0], str)
    values: Any = given
    return hasattr(values, "iloc") and not _is_frame(values) and len(values) > 0 and isinstance(values.iloc[0], str)


def _in_words(item: object) -> str:
    return f"{type(item).__name__} of {len(item)}" if isinstance(item, tuple | list | Mapping) else type(item).__name__
