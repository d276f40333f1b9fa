"""From Arrow tables to a source: which columns hold images, labels and owners, and what their values mean."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedkd.base.errors import InputError, Notice, unknown
from fedkd.data.decode import decode_images
from fedkd.data.labels import LabelColumn, never_trained, read_labels
from fedkd.data.pixels import in_channels
from fedkd.data.source import Options, Source, hold_out, with_channels
from fedkd.data.splits import Chosen, choose_splits, read_splits
from fedkd.data.tables import WRITE_A_FUNCTION, Splits, Table

MARKS = {  # of each option: Hugging Face's type, and the usual names
    "image_column": ("Image", ("image", "img")),
    "label_column": ("ClassLabel", ("label", "labels")),
}


def read_source(name: str, found: Splits, options: Options) -> Source:
    """Decode the splits of a data set.

    The test split is ``test``, else ``validation``; where there is neither, a fixed 20 % of the train split's labelled
    images. Images are in colour if one of them is, but where the options say otherwise.
    """
    try:
        return _read(name, found, options)
    except InputError as error:
        where = f"data source {name!r}"
        raise InputError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None


def _read(name: str, found: Splits, options: Options) -> Source:
    splits = read_splits(found.tables, sure=True) or dict.fromkeys(found.tables, "")
    train = found.tables[choose_splits(splits).train]
    image = _choose(train[0], "image_column", options.image_column, _may_be_images)
    label = _choose(train[0], "label_column", options.label_column, _may_be_labels)
    owner = options.natural_column or _declared(train[0], "Owner")
    testable = [split for split in splits if found.tables[split] is train or _has_labels(found.tables[split], label)]
    chosen = choose_splits(splits, testable)
    if not chosen.test and (hidden := choose_splits(splits).test):
        cure = "remove that split, and a fifth of the training images is held out"
        raise InputError(f"no image of the split {hidden} has a label (-1 stands for none): {cure}")
    test = found.tables.get(chosen.test, [])
    labels, classes, remark = read_labels(
        [_labels(table, label, split) for split in chosen[:2] for table in found.tables.get(split, [])]
    )
    train_labels, test_labels = torch.cat(labels[: len(train)]), torch.cat([*labels[len(train) :], labels[0][:0]])
    groups = _groups(train, owner) if owner else None
    images, grey = decode_images(_encoded(train, image), where=f"{chosen.train}, column {image!r}")
    said = [found.reading, _of_splits(splits, chosen), remark]
    if test:
        test_inputs, test_grey = decode_images(_encoded(test, image), where=f"{chosen.test}, column {image!r}")
        grey, count = grey + test_grey, len(images) + len(test_inputs)
        said.append(never_trained(train_labels, test_labels, classes))
        channels = max(images.shape[1], test_inputs.shape[1])
        images, test_inputs = in_channels(images, channels), in_channels(test_inputs, channels)
    else:
        count = len(images)
        kept, held = hold_out(count, 0.2, only=train_labels >= 0)
        if not len(held):
            few = f"{int((train_labels >= 0).sum())} labelled images"
            raise InputError(f"there is no test split, and {few} are too few to hold out a fifth: add images or a test split")
        test_inputs, test_labels = images[held], train_labels[held]
        images, train_labels = images[kept], train_labels[kept]
        groups = groups if groups is None else groups[kept]
    if not options.channels:
        said.append(_of_channels(grey, count))
    source = with_channels(Source(name, images, train_labels, test_inputs, test_labels, classes, groups), options.channels)
    for remark in filter(None, said):
        warnings.warn(f"data source {name!r}: {remark}", Notice, stacklevel=2)
    return source


def _of_splits(splits: Mapping[str, str], chosen: Chosen) -> str:
    """Which splits are used and which are not, where that does not go without saying."""
    left = f"; left out: {', '.join(chosen.left_out)}" if chosen.left_out else ""
    if not chosen.test and splits[chosen.train] in ("test", "validation"):
        return f"its only split, {chosen.train}, is trained on, but for a fifth that is held out as test images"
    if chosen.test and (left or splits[chosen.test] != "test"):
        return f"trained on is the split {chosen.train}, tested on {chosen.test}{left}"
    return f"trained on is the split {chosen.train}, but for a fifth that is held out as test images{left}" if left else ""


def _of_channels(grey: int, images: int) -> str:
    if grey in (0, images):
        return ""
    cure = "data.channels = 'grey' reads all in grey"
    return f"{grey} of {images} images are grey and read in three equal channels, as the others are in colour ({cure})"


def _features(table: Table) -> dict[str, Any]:
    """Hugging Face's description of the columns, empty where the file has none."""
    text = (table.schema.metadata or {}).get(b"huggingface")
    features = json.loads(text)["info"].get("features") if text else None
    return features or {}


def _declared(table: Table, kind: str) -> str:
    """The column of a declared type; empty where there is none."""
    return next((column for column, feature in _features(table).items() if feature.get("_type") == kind), "")


def _may_be_images(table: Table, column: str) -> bool:
    import pyarrow.types as types

    kind = table.schema.field(column).type
    if types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _may_be_labels(table: Table, column: str) -> bool:
    import pyarrow.types as types

    kind = table.schema.field(column).type
    kind = kind.value_type if types.is_dictionary(kind) else kind
    tests = (types.is_integer, types.is_boolean, types.is_string, types.is_large_string)
    return any(test(kind) for test in tests)


def _is_list(table: Table, column: str) -> bool:
    import pyarrow.types as types

    kind = table.schema.field(column).type
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _choose(table: Table, option: str, given: str, fits: Callable[[Table, str], bool]) -> str:
    """The column the user named, else the only one it can be by its declared type, its name or its storage."""
    declared, usual = MARKS[option]
    features = _features(table)
    if given and given not in table.column_names:
        raise unknown(f"data.{option}", given, table.column_names)
    if given and fits(table, given):
        return given
    fitting = [column for column in table.column_names if fits(table, column)]
    choices: tuple[list[str], ...] = (
        [column for column in fitting if features.get(column, {}).get("_type") == declared],
        [column for column in fitting if column in usual],
        fitting,
    )
    for candidates in choices if not given else ():
        if len(candidates) == 1:
            return candidates[0]
    if several := [
        column for column in ([given] if given else usual) if column in table.column_names and _is_list(table, column)
    ]:
        wanted = "images" if option == "image_column" else "labels an image"
        one = "one encoded image a row" if option == "image_column" else "one label an image"
        raise InputError(f"column {several[0]!r} holds lists, several {wanted}; fedkd takes {one}: {WRITE_A_FUNCTION}")
    if given:
        kind = table.schema.field(given).type
        raise InputError(f"column {given!r} ({kind}) does not fit data.{option}")
    what = option.replace("_", " ")
    if not fitting:
        raise InputError(f"no column can be the {what}, among {', '.join(table.column_names)}: {WRITE_A_FUNCTION}")
    raise InputError(f"cannot tell the {what} among {', '.join(table.column_names)}; set data.{option}")


def _column(table: Table, column: str, where: str) -> Any:
    """A column by its name, whatever its place."""
    if column not in table.column_names:
        raise InputError(f"a table of {where} has no column {column!r}, only {', '.join(table.column_names)}: rename it there")
    return table[column]


def _full_column(table: Table, column: str, where: str) -> Any:
    values = _column(table, column, where)
    if values.null_count:
        cure = "write -1 for no label" if _may_be_labels(table, column) else "fill them in"
        raise InputError(f"some values of column {column!r} are missing in {where}: {cure}, or drop those rows")
    return values


def _encoded(tables: Sequence[Table], column: str) -> list[bytes | str | None]:
    """The images of a column: the contents of a file, or its path."""
    encoded: list[bytes | str | None] = []
    for table in tables:
        for chunk in _column(table, column, "the set").chunks:
            if hasattr(chunk, "field"):  # a struct
                has_paths = chunk.type.get_field_index("path") >= 0
                paths = chunk.field("path").to_pylist() if has_paths else [None] * len(chunk)
                encoded += [data or path for data, path in zip(chunk.field("bytes").to_pylist(), paths, strict=True)]
            else:
                encoded += chunk.to_pylist()
    return encoded


def _values(column: Any) -> Any:
    import pyarrow.types as types

    return (column.cast(column.type.value_type) if types.is_dictionary(column.type) else column).to_numpy()


def _labels(table: Table, column: str, split: str) -> LabelColumn:
    values = _values(_full_column(table, column, split))
    names = _features(table).get(column, {}).get("names")
    return LabelColumn(f"the {split} split", values, tuple(names) if names else None)


def _has_labels(tables: Sequence[Table], column: str) -> bool:
    """Whether one label is more than the -1 that hides it."""
    for table in tables:
        if column not in table.column_names:
            return True  # which is told when it is read
        values = _values(table[column])
        if values.dtype.kind not in "if" or bool((values != -1).any()):
            return True
    return False


def _groups(tables: Sequence[Table], column: str) -> Tensor:
    """The number of each sample's owner: (N,) int64, 0.. in sorted order of the column's values."""
    if column not in tables[0].column_names:
        raise unknown("data.natural_column", column, tables[0].column_names)
    values = np.concatenate([_values(_full_column(table, column, "the train split")) for table in tables])
    return torch.from_numpy(np.unique(values, return_inverse=True)[1].astype(np.int64))
