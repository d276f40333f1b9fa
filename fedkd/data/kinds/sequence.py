"""Sequences: signals of one or more values at each of L times."""

from __future__ import annotations

from typing import ClassVar, final

from fedkd.data.kinds.features import Features


@final
class Sequence(Features):
    """Real numbers (B, L, F), all of one length, standardised by feature over time."""

    name: ClassVar[str] = "sequence"
    axes: ClassVar[str] = "(N, L, F)"
    dimensions: ClassVar[int] = 3
