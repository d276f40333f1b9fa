"""Values that are missing in a table: refused in words, filled with the training mean, or their rows left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkd.base.errors import InputError
from fedkd.data.columns.arrow import Part, column_of
from fedkd.data.layout import some
from fedkd.data.tables import Table

CURE = "set data.missing = 'mean' to fill them with the training mean, or 'drop' to leave those rows out"


def drop_missing(part: Part, columns: Sequence[str]) -> tuple[Part, str]:
    """The split without rows in which a value of these columns is missing, and what is to be said of it."""
    tables = [_without(table, columns, part.where(table)) for table in part.tables]
    if not (left := len(part) - sum(map(len, tables))):
        return part, ""
    if left == len(part):
        raise InputError(f"every row of the {part.name} split misses a value: name fewer columns in data.feature_columns")
    return Part(part.name, tables), f"{left} of {len(part)} rows of the {part.name} split miss a value and are left out"


def refuse_missing(part: Part, column: str, missing: Any, cure: str = CURE) -> None:
    """InputError that names the column and how many of the split's rows (N,) miss a value of it, if one does."""
    if missing.any():
        first = int(missing.argmax())
        rows = f"{int(missing.sum())} of {len(missing)} rows of the {part.name} split, first in row {first}"
        raise InputError(f"column {column!r} has no value in {rows}: {cure}")


def fill_with_means(
    names: Sequence[str], train: NDArray[np.float64], test: NDArray[np.float64] | None, kept: NDArray[np.int64]
) -> list[str]:
    """Fill NaN of features (N, F), in place, with the mean of the training rows that are kept; returns what is to be said.

    Args:
        names: (F,) the column of each feature.
        train: the features of the training split.
        test: of the test split, where there is one.
        kept: the rows of the training split that are trained on.
    """
    holes = {}
    for part in (train,) if test is None else (train, test):
        for feature in np.flatnonzero(np.isnan(part).any(0)).tolist():
            known = train[kept, feature]
            if np.isnan(known).all():
                raise InputError(f"column {names[feature]!r} has no value in any training row: leave it out of the features")
            missing = np.isnan(part[:, feature])
            part[missing, feature] = np.nanmean(known)
            holes[names[feature], part is train] = int(missing.sum())
    if not holes:
        return []
    counts: dict[str, int] = {}
    for (name, _), count in holes.items():
        counts[name] = counts.get(name, 0) + count
    return [
        f"missing values are filled with the training mean: {some([f'{count} of {name}' for name, count in counts.items()])}"
    ]


def _without(table: Table, columns: Sequence[str], where: str) -> Table:
    import pyarrow.compute as compute

    present = None
    for column in columns:
        found = compute.invert(compute.is_null(column_of(table, column, where), nan_is_null=True))
        present = found if present is None else compute.and_(present, found)
    return table if present is None else table.filter(present)
