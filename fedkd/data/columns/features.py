"""Columns of numbers and of categories, as vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedkd.base.errors import InputError
from fedkd.data.columns.arrow import Part, column_of, is_number, is_text, values_of
from fedkd.data.columns.missing import fill_with_means, refuse_missing
from fedkd.data.columns.reader import Read, Reader
from fedkd.data.layout import some

Numbers = NDArray[np.float64]


@final
@dataclass(frozen=True)
class Features(Reader):
    """Numbers as they are; a category as one number for each name of the training split, 1 for its own, in sorted order."""

    columns: tuple[str, ...]
    missing: str

    def read(self, train: Part, test: Part | None, kept: Tensor) -> Read:
        """float32 (N, F)."""
        parts = [train] if test is None else [train, test]
        blocks: list[list[Numbers]] = [[] for _ in parts]
        names: list[str] = []
        features: list[str] = []
        said: list[str] = []
        for column in self.columns:
            if is_text(train.tables[0], column):
                texts = [_texts(part, column) for part in parts]
                known = _categories(train, column, texts[0])
                read = [_one_hot(part, column, values, known) for part, values in zip(parts, texts, strict=True)]
                said.append(f"{column} ({some(known)})")
                features += [f"{column} = {name}" for name in known]
            else:
                read = [_numbers(part, column) for part in parts]
                features.append(column)
            for part, block, values in zip(parts, blocks, read, strict=True):
                if not self.missing:
                    refuse_missing(part, column, np.isnan(values).any(axis=1))
                block.append(values)
            names += [column] * read[0].shape[1]
        inputs = [np.concatenate(block, axis=1) for block in blocks]
        remarks = [f"columns of text are encoded by their names in the training split: {'; '.join(said)}"] if said else []
        remarks += fill_with_means(names, inputs[0], inputs[1] if test else None, kept.numpy())
        tensors = [torch.from_numpy(values.astype(np.float32)) for values in inputs]
        return Read(tensors[0], tensors[1] if test else None, remarks, features=tuple(features))


def _numbers(part: Part, column: str) -> Numbers:
    """(N, 1), NaN where there is none."""
    found = []
    for table in part.tables:
        values = column_of(table, column, where := part.where(table))
        if not is_number(table, column):
            kind = "text" if is_text(table, column) else f"{values.type}"
            raise InputError(f"column {column!r} holds {kind} in {where}, but numbers elsewhere: write the same in all")
        found.append(values_of(values.cast("float64", safe=False)))
    numbers: Numbers = np.concatenate(found).astype(np.float64)
    if np.isinf(numbers).any():
        raise InputError(
            f"column {column!r} of the {part.name} split is infinite in row {int(np.isinf(numbers).argmax())}: correct it"
        )
    return numbers[:, None]


def _texts(part: Part, column: str) -> NDArray[np.object_]:
    """(N,) text, None where there is none."""
    found = []
    for table in part.tables:
        values = column_of(table, column, where := part.where(table))
        if not is_text(table, column) and values.null_count < len(values):
            raise InputError(f"column {column!r} holds {values.type} in {where}, but text elsewhere: write the same in all")
        found.append(values_of(values).astype(object))
    return np.concatenate(found)


def _categories(train: Part, column: str, texts: NDArray[np.object_]) -> list[str]:
    """The names that a category has in the training split; InputError where it is none but a text of its own in each row."""
    names = sorted({text for text in texts.tolist() if isinstance(text, str)})
    if len(names) > max(20, len(texts) / 2):
        cure = "set data.tokens to read it as text, or name the columns to take in data.feature_columns"
        raise InputError(
            f"column {column!r} is no category: it holds {len(names)} different texts in {len(texts)} rows: {cure}"
        )
    return names


def _one_hot(part: Part, column: str, texts: NDArray[np.object_], names: list[str]) -> Numbers:
    """(N, names), NaN in rows without a value."""
    numbers = {name: number for number, name in enumerate(names)}
    encoded: Numbers = np.zeros((len(texts), len(names)))
    for row, text in enumerate(texts.tolist()):
        if not isinstance(text, str):
            encoded[row] = np.nan
        elif text not in numbers:
            cure = "correct it, or leave those rows out"
            raise InputError(
                f"column {column!r} holds {text!r} in row {row} of the {part.name} split, which no training row has: {cure}"
            )
        else:
            encoded[row, numbers[text]] = 1
    return encoded
