"""One key of a round's row or of a client's line: how it is called, what it means, and who may write it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

SHARE, BYTES, SECONDS, JOULES, NATS, CLIENTS = "share", "bytes", "s", "J", "nats", "clients"


@final
@dataclass(frozen=True)
class RowKey:
    """One key of ``metrics.jsonl`` or ``clients.jsonl``, or all keys of one form.

    Args:
        key: as it is written; ``<name>`` stands for any word.
        label: what the axis of a figure says.
        meaning: how the number comes about.
        unit: ``SHARE`` of 1, ``BYTES``, ``SECONDS``, ``JOULES``, ``NATS``, ``CLIENTS``; empty for a number without, or text.
        heading: what a column or a legend says, where there is little room; default, the label.
        owned: whether only fedkd may write it: a strategy's own metrics have other names.
    """

    key: str
    label: str
    meaning: str
    unit: str = ""
    heading: str = ""
    owned: bool = field(default=True, kw_only=True)

    @property
    def short(self) -> str:
        """The heading, or the label where there is none."""
        return self.heading or self.label

    @property
    def axis(self) -> str:
        """The label, with the unit in brackets; percent stand at the ticks."""
        return self.label if self.unit in ("", SHARE) else f"{self.label} ({self.unit})"


def of_strategy(key: str, label: str, meaning: str, unit: str = "", heading: str = "") -> RowKey:
    """A key that strategies report."""
    return RowKey(key, label, meaning, unit, heading, owned=False)
