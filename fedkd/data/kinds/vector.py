"""Vectors: the features of a row of a table."""

from __future__ import annotations

from typing import ClassVar, final

from fedkd.data.kinds.features import Features


@final
class Vector(Features):
    """Real numbers (B, F), standardised by feature."""

    name: ClassVar[str] = "vector"
    axes: ClassVar[str] = "(N, F)"
    dimensions: ClassVar[int] = 2
