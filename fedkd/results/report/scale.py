"""From numbers to places on an axis: linear or logarithmic, with ticks that are round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import final


@final
@dataclass(frozen=True)
class Scale:
    """An axis from ``low`` at the place ``start`` to ``high`` at ``end``, in the drawing's units."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def at(self, value: float) -> float:
        """The place of a value.

        >>> Scale(0.0, 10.0, 100.0, 0.0, ()).at(2.5), Scale(1.0, 100.0, 0.0, 10.0, (), log=True).at(10.0)
        (75.0, 5.0)
        """
        low, high, value = (log10(each) for each in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return self.start + (self.end - self.start) * (value - low) / (high - low)


def linear(
    low: float,
    high: float,
    start: float,
    end: float,
    say: Callable[[float], str],
    *,
    tight: bool = False,
    whole: bool = False,
    most: float | None = None,
    unit: float = 1.0,
) -> Scale:
    """A linear axis that holds both ends, with at most six ticks that are round numbers of a ``unit``.

    ``tight``: it ends where the values do, not at a tick. ``whole``: ticks are whole numbers. ``most``: no tick lies beyond it.

    >>> [text for _, text in linear(0.12, 0.83, 0, 1, str, most=1.0).ticks]
    ['0.0', '0.2', '0.4', '0.6', '0.8', '1.0']
    """
    if high <= low:
        margin = 0.5 if whole else abs(high) * 0.05 or 0.5
        low, high = low - (0 if tight else margin), high + margin
    step = _step((high - low) / 5 / unit, whole=whole) * unit
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    values = [round(number * step, 12) for number in range(first, last + 1)]
    if most is not None:
        values = [value for value in values if value <= most + 1e-9]
    if tight:
        values = [value for value in values if low <= value <= high]
    else:
        low, high = min(low, values[0]), max(high, values[-1])
    return Scale(low, high, start, end, tuple((value, say(value)) for value in values))


def logarithmic(low: float, high: float, start: float, end: float, say: Callable[[float], str]) -> Scale:
    """A logarithmic axis from ``low`` to ``high``, both above 0; ticks at powers of ten, of a shorter one at 1, 2, 5.

    >>> [text for _, text in logarithmic(3.0, 2000.0, 0, 1, str).ticks]
    ['10.0', '100.0', '1000.0']
    """
    if high <= low:
        low, high = low / 2, high * 2
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    subs = (1,) if high / low > 20 else (1, 2, 5)
    values = [sub * 10.0**decade for decade in decades for sub in subs]
    shown = [value for value in values if low <= value <= high] or [low, high]
    every = ceil(len(shown) / 5)
    return Scale(low, high, start, end, tuple((value, say(value)) for value in shown[::every]), log=True)


def _step(rough: float, *, whole: bool) -> float:
    """The round number, 1, 2 or 5 times a power of ten, that is at least so large."""
    power = 10.0 ** floor(log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    return max(1.0, step) if whole else step
