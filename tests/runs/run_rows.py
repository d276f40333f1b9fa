from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedkd.runs import RunDirectory

MakeRun = Callable[..., RunDirectory]


def rows_of(*accuracies: float | None, up: int = 1000) -> list[dict[str, Any]]:
    """Row 0 and one row a round; each round uploads ``up`` bytes and takes two seconds."""
    return [
        {"round": round, "accuracy": accuracy, "bytes_up": up if round else 0, "seconds": 2.0}
        for round, accuracy in enumerate(accuracies)
    ]
