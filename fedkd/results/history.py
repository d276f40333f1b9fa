"""History: what a run returns. One dict a round, one dict a client and round."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flwr.app import ConfigRecord, RecordDict

from fedkd.base.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from fedkd.results.figures.picture import Picture

RECORD = "fedkd.results.history"
#: Keys that differ between two runs of the same experiment: all others are equal to the last bit.
TIMES = ("seconds", "cpu_seconds", "joules")
#: Keys that an engine says of itself, of how it computed: another engine's rows lack them.
OF_ENGINE = ("trained_together",)


@dataclass(frozen=True)
class History:
    """The rows of ``metrics.jsonl`` and ``clients.jsonl``."""

    metrics: list[dict[str, Any]] = field(default_factory=list)
    clients: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, rows in vars(self).items():
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise InputError(f"History: {name} is a list of one dict a row, got {type(rows).__name__}")

    def write(self, state: RecordDict) -> None:
        """Put the rows into a Context's state, as JSON text: Flower drops what a ServerApp's main returns."""
        state[RECORD] = ConfigRecord({"metrics": json.dumps(self.metrics), "clients": json.dumps(self.clients)})

    @classmethod
    def read(cls, state: RecordDict) -> History:
        """The rows that ``write`` put into a Context's state."""
        record = state[RECORD]
        return cls(json.loads(str(record["metrics"])), json.loads(str(record["clients"])))

    @classmethod
    def read_directory(cls, path: Path) -> History:
        """The rows of a run's directory. Raises InputError where they are damaged."""
        from fedkd.results.logs import read_clients, read_metrics

        return cls(read_metrics(path), read_clients(path))

    def to_pandas(self) -> pd.DataFrame:
        """One row a round, one column a metric."""
        import pandas as pd

        return pd.DataFrame(self.metrics)

    def summary(self, metric: str = "accuracy") -> dict[str, float]:
        """The last, the best and the mean of the last five values of a metric, and their rounds; empty if it has none.

        A metric that was measured in fewer rounds than five is averaged over these: ``averaged`` says how many.

        "Best" is chosen on the test set: optimistic.
        """
        from fedkd.results.statistics import summary

        if not isinstance(metric, str):
            raise InputError(f"summary: name one metric, as 'accuracy'; got {metric!r}")
        readings = summary(self.metrics, metric)
        return dict(vars(readings)) if readings else {}

    def plot(
        self,
        metric: str = "accuracy",
        x: str | Sequence[str] = "rounds",
        *,
        target: float | None = None,
        title: str = "",
        style: str = "",
        width: str | float = "",
    ) -> Picture:
        """Draw a metric against ``x``: "rounds", "bytes", "seconds", "cpu_seconds", "joules", "simulated_seconds", or several.

        Gives a matplotlib Figure, made without pyplot: a notebook shows it, ``savefig`` writes it. ``target`` is a value to
        reach; ``style`` "neurips", "icml" or "ieee"; ``width`` "column", "page" or a number of inches.
        """
        from fedkd.results.figures.rows import plot_rows

        rows = {metric: {0: self.metrics}}
        return plot_rows(rows, metric, x, target=target, title=title, style=style, width=width)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from fedkd.results.notebook import history_html

        return history_html(self.metrics)
