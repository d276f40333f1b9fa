"""Numbers as a reader wants them."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from fedkd.results.row_keys import BYTES, JOULES, SECONDS, SHARE, describe_key
from fedkd.results.statistics import duration, energy, size


def cell(key: str, value: object) -> str:
    """The value of a key, with its unit.

    >>> cell("accuracy", 0.5), cell("bytes_up", 1500), cell("joules", 12.0), cell("loss", None)
    ('50.0 %', '1.5 kB', '12.0 J', '')
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
        return "" if value is None or isinstance(value, float) else str(value)
    unit = describe_key(key).unit
    if unit == SHARE:
        return f"{100 * value:.1f} %"
    if unit in (BYTES, JOULES):
        return size(value) if unit == BYTES else energy(value)
    return duration(value) if unit == SECONDS else f"{value:.4g}"


def with_interval(key: str, mean: float, half: float) -> str:
    """A mean over seeds with half its interval, where there is one.

    >>> with_interval("accuracy", 0.5, 0.025), with_interval("loss", 0.5, float("nan"))
    ('50.0 ± 2.5 %', '0.5')
    """
    if not isfinite(half) or not isfinite(mean):
        return cell(key, mean)
    if describe_key(key).unit == SHARE:
        return f"{100 * mean:.1f} ± {100 * half:.1f} %"
    return f"{cell(key, mean)} ± {cell(key, half)}"


def capital(text: str) -> str:
    """The text with a capital at its beginning; names in mixed letters stay as they are.

    >>> capital("linear probe"), capital("kNN"), capital("KL divergence")
    ('Linear probe', 'kNN', 'KL divergence')
    """
    return text if text[1:2].isupper() else f"{text[:1].upper()}{text[1:]}"


def number(row: Mapping[str, Any], key: str) -> float | None:
    """A row's number; None where it has none that can be drawn."""
    value = row.get(key)
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)
    return float(value) if good else None  # type: ignore[arg-type]
