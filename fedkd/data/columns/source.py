"""From Arrow tables to a source: what the columns' values mean, over all splits together."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from fedkd.base.errors import InputError, Notice
from fedkd.data.arrays import label_column as as_labels
from fedkd.data.columns.arrow import Part, features_of, full_column, is_whole, values_of
from fedkd.data.columns.choose import input_reader, is_guessed, label_column, owner_column
from fedkd.data.columns.missing import drop_missing
from fedkd.data.labels import LabelColumn, never_trained, read_labels
from fedkd.data.options import Options
from fedkd.data.rows import part_of
from fedkd.data.source import Source, hold_out, with_channels
from fedkd.data.splits import Chosen, choose_splits, read_splits
from fedkd.data.tables import Splits, Table
from fedkd.data.unlabelled import with_labels_to_judge_by


def read_source(name: str, found: Splits, options: Options) -> Source:
    """Read the splits of a data set.

    The test split is ``test``, else ``validation``; where there is neither, a fixed 20 % of the train split's labelled
    samples. Images are in colour if one of them is, but where the options say otherwise.
    """
    try:
        return _read(name, found, options)
    except InputError as error:
        where = f"data source {name!r}"
        raise InputError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None


def _read(name: str, found: Splits, options: Options) -> Source:
    splits = read_splits(found.tables, sure=True) or dict.fromkeys(found.tables, "")
    first = found.tables[choose_splits(splits).train][0]
    owner = owner_column(first, options)
    label = label_column(first, options, owner)
    reader, remark = input_reader(first, options, label, owner)
    chosen = _choose_splits(splits, found, label)
    said = [found.reading, _of_splits(splits, chosen, options.held_out), remark]
    if is_guessed(first, options, label):
        said.append(f"its labels are column {label!r}, the only one that can be it (data.label_column)")
    train, test = Part(chosen.train, found.tables[chosen.train]), Part(chosen.test, found.tables.get(chosen.test, []))
    if options.missing == "drop":
        train, remark = drop_missing(train, reader.columns)
        test, other = drop_missing(test, reader.columns) if test.tables else (test, "")
        said += [remark, other]
    labels, classes, remark = read_labels([_labels(table, label, part) for part in (train, test) for table in part.tables])
    said.append(remark)
    train_labels = torch.cat(labels[: len(train.tables)])
    test_labels = torch.cat([*labels[len(train.tables) :], labels[0][:0]])
    groups = _groups(train, owner) if owner else None
    kept, held = hold_out(len(train_labels), options.held_out, only=train_labels >= 0)
    everything = torch.arange(len(train_labels))
    read = reader.read(train, test if test.tables else None, everything if test.tables else kept)
    inputs, test_inputs = read.train, read.test
    said += read.said
    if test_inputs is None:
        if options.held_out and not len(held):
            few = f"{int((train_labels >= 0).sum())} labelled samples"
            raise InputError(f"there is no test split, and {few} are too few to hold out a fifth: add some or a test split")
        test_inputs, test_labels = part_of(inputs, held), train_labels[held]
        inputs, train_labels = part_of(inputs, kept), train_labels[kept]
        groups = groups if groups is None else groups[kept]
    source = Source(
        name,
        inputs,
        train_labels,
        test_inputs,
        test_labels,
        classes,
        groups,
        vocabulary=read.vocabulary,
        features=read.features,
    )
    source, of_labels = with_labels_to_judge_by(with_channels(source, options.channels))
    if test.tables:
        said.append(never_trained(source.train_labels, source.test_labels, classes))
    for remark in filter(None, [*said, of_labels]):
        warnings.warn(f"data source {name!r}: {remark}", Notice, stacklevel=2)
    return source


def _choose_splits(splits: Mapping[str, str], found: Splits, label: str) -> Chosen:
    """What to train and test on; InputError where all labels of the test split are hidden."""
    train = choose_splits(splits).train
    testable = [split for split in splits if split == train or _has_labels(found.tables[split], label)]
    chosen = choose_splits(splits, testable)
    if not chosen.test and (hidden := choose_splits(splits).test):
        cure = "remove that split, and a fifth of the training samples is held out"
        raise InputError(f"no sample of the split {hidden} has a label (-1 stands for none): {cure}")
    return chosen


def _of_splits(splits: Mapping[str, str], chosen: Chosen, held_out: float) -> str:
    """Which splits are used and which are not, where that does not go without saying."""
    left = f"; left out: {', '.join(chosen.left_out)}" if chosen.left_out else ""
    if not chosen.test and not held_out:
        return f"its only split that is read is {chosen.train}{left}" if left else ""
    if not chosen.test and splits[chosen.train] in ("test", "validation"):
        return f"its only split, {chosen.train}, is trained on, but for a fifth that is held out as test samples"
    if chosen.test and (left or splits[chosen.test] != "test"):
        return f"trained on is the split {chosen.train}, tested on {chosen.test}{left}"
    return f"trained on is the split {chosen.train}, but for a fifth that is held out as test samples{left}" if left else ""


def _labels(table: Table, column: str, part: Part) -> LabelColumn:
    where = part.where(table)
    values = values_of(full_column(table, column, where))
    names = features_of(table).get(column, {}).get("names")
    return as_labels(where, values, tuple(names) if names else None)


def _has_labels(tables: Sequence[Table], column: str) -> bool:
    """Whether one label is more than the -1 that hides it."""
    for table in tables:
        if column not in table.column_names or not is_whole(table, column):
            return True  # what is wrong with it is told when it is read
        if bool((values_of(table[column]) != -1).any()):
            return True
    return False


def _groups(part: Part, column: str) -> Tensor:
    """The number of each sample's owner: (N,) int64, 0.. in sorted order of the column's values."""
    values = np.concatenate([values_of(full_column(table, column, part.where(table))) for table in part.tables])
    return torch.from_numpy(np.unique(values, return_inverse=True)[1].astype(np.int64))
