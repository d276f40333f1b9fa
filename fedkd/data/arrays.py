"""Arrays as samples and labels: NumPy's, torch's, or what NumPy makes one of. Axes are put in order, types are made ours."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedkd.base.errors import InputError, Notice
from fedkd.base.inputs import Inputs, count, rows
from fedkd.data.kinds.image import LARGEST
from fedkd.data.kinds.tokens import TOKEN_IDS
from fedkd.data.labels import LabelColumn, never_trained, read_labels
from fedkd.data.options import HELD_OUT
from fedkd.data.rows import MappedArray, is_mapped
from fedkd.data.source import Source, hold_out
from fedkd.data.unlabelled import with_labels_to_judge_by

#: Bytes of a set on disk of which a test split is held out by copying.
COPIED = 2**30
SEVERAL = "several a sample (multi-label, or one column a class): fedkd takes one class number a sample"


@dataclass(frozen=True)
class Split:
    """The samples of a split as they were given, and their labels; whose they are, where that is known."""

    inputs: Any
    labels: Any
    groups: Any = None


def source_of_arrays(
    name: str, train: Split, test: Split | None, classes: tuple[str, ...] | None = None, *, held_out: float = HELD_OUT
) -> Source:
    """A source of arrays. Without a test split, a fixed share of the labelled samples is held out.

    Args:
        name: of the source.
        train: samples (N, ...), labels (N,): whole numbers, or names.
        test: likewise.
        classes: the names of the class numbers, where they are known.
        held_out: that share.

    Raises:
        InputError: arrays whose type or shape says nothing, labels of another length, several a sample, or real ones.
    """
    where = f"data source {name!r}"
    inputs = inputs_of(f"{where}, train split", train.inputs)
    groups = None if train.groups is None else owners(f"{where}, groups", train.groups, count(inputs))
    columns = [_label_column("the train split", train.labels, classes)]
    if test is not None:
        columns.append(_label_column("the test split", test.labels, classes))
    try:
        labels, names, _ = read_labels(columns)
        _check_lengths("train", inputs, labels[0])
        if test is not None:
            test_inputs = inputs_of(f"{where}, test split", test.inputs)
            _check_lengths("test", test_inputs, labels[1])
            source = Source(name, inputs, labels[0], test_inputs, labels[1], names, groups)
            source, remark = with_labels_to_judge_by(source)
            for said in filter(None, (remark, never_trained(source.train_labels, source.test_labels, names))):
                warnings.warn(f"{where}: {said}", Notice, stacklevel=2)
            return source
        if not held_out:
            nothing = torch.arange(0)
            return Source(name, inputs, labels[0], rows(inputs, nothing), labels[0][nothing], names, groups)
        _refuse_copying(inputs)
        kept, held = hold_out(count(inputs), held_out, only=labels[0] >= 0)
        if not len(held):
            raise InputError(f"there is no test split, and {count(inputs)} samples are too few to hold out a fifth: give one")
    except InputError as error:
        raise InputError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None
    warnings.warn(f"{where}: there is no test split: {len(held)} of {count(inputs)} samples are held out as one", Notice, 2)
    groups = None if groups is None else groups[kept]
    return Source(name, rows(inputs, kept), labels[0][kept], rows(inputs, held), labels[0][held], names, groups)


def inputs_of(where: str, given: Any) -> Inputs:
    """Samples as a source takes them: uint8 or uint16 (N, C, H, W), real numbers, or int64 token ids; or such by name.

    Images may have their channels last, or none; whole numbers of another type become the nearest of these.
    """
    if isinstance(given, Mapping):
        named = TOKEN_IDS in given
        return {str(name): _tensor_of(f"{where}, {name}", tensor, tokens=named) for name, tensor in given.items()}
    return _tensor_of(where, given)


def _tensor_of(where: str, given: Any, *, tokens: bool = False) -> Tensor:
    if isinstance(given, MappedArray):
        return given
    array = array_of(where, given)
    if array.dtype.kind not in "biuf":
        raise InputError(f"{where}: samples are {array.dtype}, not numbers: convert them")
    if array.ndim < 2:
        raise InputError(f"{where}: samples have the shape {array.shape}: give (N, F), one row a sample")
    array = channels_first(_numbers(where, array, tokens))
    return torch.from_numpy(np.ascontiguousarray(array))


def array_of(where: str, given: Any) -> NDArray[Any]:
    """The NumPy array of a tensor, a frame, a list ...; InputError where rows differ in length."""
    if isinstance(given, Tensor):
        return given.detach().cpu().numpy()
    try:
        return np.asarray(given)
    except (ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{where}: no array can be made of it ({reason}): pad or cut samples to one shape") from None


def channels_first(array: NDArray[Any]) -> NDArray[Any]:
    """Images (N, C, H, W) of images whose channels stand last, or that have none, as a view; what is none is left as it is.

    The channels stand last where the other two sides are equal, else where they are 4 at most and the others more.

    >>> channels_first(np.zeros((5, 28, 28, 3), np.uint8)).shape, channels_first(np.zeros((5, 28, 28), np.uint8)).shape
    ((5, 3, 28, 28), (5, 1, 28, 28))
    """
    if array.ndim == 3 and array.dtype in (np.uint8, np.uint16):
        return array[:, None]
    if array.ndim != 4:
        return array
    _, first, middle, last = array.shape
    squares = (first == middle) - (middle == last)  # 1: the first two sides are equal, -1: the last two
    is_last = squares > 0 if squares else last <= 4 < first
    return array.transpose(0, 3, 1, 2) if is_last else array


def _numbers(where: str, array: NDArray[Any], tokens: bool) -> NDArray[Any]:
    """The same values in a type that a source takes; of tokens by their name it goes without saying."""
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "f":
        return array if array.dtype.isnative and size <= 4 else array.astype(np.float32)
    if array.ndim == 2 and (kind == "b" or array.dtype == np.uint8):
        return array.astype(np.float32)
    if array.ndim == 2:
        if not tokens:
            said = "whole numbers (N, L) are read as token ids: give real numbers if they are features"
            warnings.warn(f"{where}: {said}", Notice, stacklevel=2)
        return array.astype(np.int64)
    if array.dtype in (np.uint8, np.uint16) and array.dtype.isnative:
        return array
    least, most = (int(array.min()), int(array.max())) if array.size else (0, 0)
    for dtype, largest in LARGEST.items():
        if array.ndim == 4 and least >= 0 and most <= largest:
            return array.astype(str(dtype).removeprefix("torch."))
    if array.ndim == 3:
        return array.astype(np.float32)  # a signal in whole numbers
    raise InputError(f"{where}: samples {array.shape} hold whole numbers from {least} to {most}: pixels run from 0 to 65535")


def owners(where: str, given: Any, samples: int) -> Tensor:
    """The number of each sample's owner: (N,) int64, 0.. in sorted order of the values."""
    values = array_of(where, given).reshape(-1)
    if len(values) != samples:
        raise InputError(f"{where}: {len(values)} owners for {samples} training samples: give one for each")
    return torch.from_numpy(np.unique(values, return_inverse=True)[1].astype(np.int64))


def _label_column(where: str, given: Any, names: tuple[str, ...] | None) -> LabelColumn:
    values = array_of(f"labels of {where}", given)
    if values.ndim == 2 and values.shape[1] == 1:  # as MedMNIST has them
        values = values[:, 0]
    if values.ndim > 1:
        raise InputError(f"labels of {where} are {values.shape}, {SEVERAL}")
    return label_column(where, values, names)


def label_column(where: str, values: NDArray[Any], names: tuple[str, ...] | None) -> LabelColumn:
    """Values (N,) as labels: whole numbers or text. InputError for real numbers and for what is missing."""
    if values.dtype.kind == "O":
        if any(value is None or value != value for value in values.tolist()):
            raise InputError(f"some labels of {where} are missing: write -1 for no label, or drop those samples")
        values = np.asarray([str(value) for value in values.tolist()], dtype=object)
    elif values.dtype.kind in "US":
        values = values.astype(object)
    elif values.dtype.kind == "f":
        cure = "regression is not what fedkd does: it takes one class a sample, a whole number or a name"
        raise InputError(f"labels of {where} are real numbers ({values.dtype}): {cure}")
    return LabelColumn(where, values, names)


def _check_lengths(split: str, inputs: Inputs, labels: Tensor) -> None:
    if count(inputs) != len(labels):
        raise InputError(f"the {split} split has {count(inputs)} samples and {len(labels)} labels: give one for each")


def _refuse_copying(inputs: Inputs) -> None:
    if (
        is_mapped(inputs)
        and sum(each.nbytes for each in (inputs.values() if isinstance(inputs, Mapping) else [inputs])) > COPIED
    ):
        raise InputError("there is no test split, and it is too large to be copied into two: write test_inputs.npy too")
