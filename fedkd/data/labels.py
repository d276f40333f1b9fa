"""Class numbers from the label columns of several tables: a class is its name, whatever number a table gives it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedkd.base.errors import InputError
from fedkd.data.layout import some

UNLABELLED = -1


class LabelColumn(NamedTuple):
    """The labels of one table: numbers or text (N,), and the names of the numbers where the table has them."""

    where: str
    values: NDArray[Any]
    names: tuple[str, ...] | None


def read_labels(columns: Sequence[LabelColumn]) -> tuple[list[Tensor], tuple[str, ...], str]:
    """Class numbers (N,) int64 of each table, -1 for no label; the classes' names; what is worth saying, or nothing.

    Names are the tables' own, in the order of the first that has them, else the values in sorted order.

    Raises:
        InputError: a negative label other than -1, numbers without a name, text beside numbers that have none, or names that
            differ in capital letters only.
    """
    for column in columns:
        _check(column)
    parts, classes, remark = _read(columns)
    _refuse_twins(classes)
    return parts, classes, remark


def _read(columns: Sequence[LabelColumn]) -> tuple[list[Tensor], tuple[str, ...], str]:
    if named := [column for column in columns if column.names is not None]:
        return _by_name(columns, named)
    telling = [column for column in columns if not _is_silent(column)]
    if len({_is_text(column) for column in telling}) > 1:
        text, number = (next(c.where for c in telling if _is_text(c) is kind) for kind in (True, False))
        raise InputError(f"labels are text in {text} and numbers in {number}: write the same in both")
    values = [column.values if _is_text(column) else column.values[column.values != UNLABELLED] for column in telling]
    known = np.unique(np.concatenate([*values, values[0][:0]] if values else [np.zeros(0, np.int64)]))
    parts = [_numbers(column, known) for column in columns]
    return [torch.from_numpy(part.astype(np.int64)) for part in parts], tuple(str(value) for value in known), ""


def _numbers(column: LabelColumn, known: NDArray[Any]) -> NDArray[Any]:
    """The class of each value (N,), its place among those known; -1 where it is none."""
    if _is_silent(column):
        return np.full(len(column.values), UNLABELLED)
    return np.where(np.isin(column.values, known), np.searchsorted(known, column.values), UNLABELLED)


def _is_silent(column: LabelColumn) -> bool:
    """Whether nothing of it is a label, so that it does not say how they are written."""
    return not _is_text(column) and column.values.dtype.kind == "i" and bool((column.values == UNLABELLED).all())


def _by_name(columns: Sequence[LabelColumn], named: Sequence[LabelColumn]) -> tuple[list[Tensor], tuple[str, ...], str]:
    classes = list(dict.fromkeys(name for column in named for name in column.names or ()))
    text = {str(value) for column in columns if _is_text(column) for value in column.values.tolist()}
    if strange := sorted(text - {*classes}):
        raise InputError(f"labels {some(strange)} are none of the named classes {some(classes)}: name the same in all tables")
    parts, said = [], ""
    number = {name: position for position, name in enumerate(classes)}
    for column in columns:
        if _is_text(column):
            parts.append(torch.tensor([number[str(value)] for value in column.values.tolist()], dtype=torch.int64))
            continue
        names = column.names or named[0].names or ()
        if column.names is None:
            said = f"labels of {column.where} have no names and are read with those of {named[0].where}"
        table = torch.tensor([*(number[name] for name in names), UNLABELLED])  # -1 finds the last
        values = torch.from_numpy(column.values.astype(np.int64))
        if len(values) and values.max() >= len(names):
            raise InputError(f"{column.where}: label {values.max()}, but there are only {len(names)} class names")
        parts.append(table[values])
    return parts, tuple(classes), said


def never_trained(train: Tensor, test: Tensor, classes: Sequence[str]) -> str:
    """What is worth saying of classes that are tested and never trained, or nothing."""
    trained, tested = ({*torch.unique(part[part >= 0]).tolist()} for part in (train, test))
    strange = some([classes[number] for number in sorted(tested - trained)])
    return f"no training sample is of {strange}, though test samples are" if strange else ""


def _refuse_twins(classes: Sequence[str]) -> None:
    folded: dict[str, str] = {}
    for name in classes:
        if (same := folded.setdefault(name.casefold(), name)) != name:
            raise InputError(f"the classes {same!r} and {name!r} differ in small and capital letters only: rename one")


def _is_text(column: LabelColumn) -> bool:
    return column.values.dtype.kind not in "iub"


def _check(column: LabelColumn) -> None:
    if column.values.dtype.kind == "i" and len(column.values) and (least := int(column.values.min())) < UNLABELLED:
        raise InputError(f"{column.where}: label {least}: labels count from 0, and -1 stands for no label")
