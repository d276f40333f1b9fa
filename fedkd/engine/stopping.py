"""Whether a run goes on after a round: its criteria, and whoever else may end it."""

from __future__ import annotations

import warnings
from typing import Any, final

from fedkd.base.errors import InputError, Notice
from fedkd.engine.round_metrics import RoundMetrics
from fedkd.experiment.experiment import Experiment
from fedkd.results.row_keys import SHARE, describe_key
from fedkd.results.stopping import STOPPED, measured, reason_spent, reason_to_stop


@final
class RunStop:
    """Looks at a run's rows after each round. What it says follows from them alone, also where a run is gone on with."""

    def __init__(self, experiment: Experiment) -> None:
        self._stop, self._rounds = experiment.stop, experiment.rounds
        self._evaluates, self._told, self._said = experiment.evaluates, False, False
        if self._stop.accuracy and describe_key(self._stop.metric).unit != SHARE:
            raise InputError(
                f"stop.accuracy: stop.metric = {self._stop.metric!r} is no accuracy: name one, or set stop.patience instead"
            )

    def is_over(self, rows: list[dict[str, Any]]) -> bool:
        """Whether no further round is run."""
        return self._said or bool(self._stop.on and reason_to_stop(self._stop, rows))

    def has_spent(self, rows: list[dict[str, Any]], metrics: RoundMetrics) -> bool:
        """Whether the run will stop after this round by what it has taken so far, so that it is to be evaluated."""
        return self._stop.on and bool(reason_spent(self._stop, [*rows, metrics.spent()]))

    def enter(self, rows: list[dict[str, Any]]) -> None:
        """Note in the last row why the run stops, if it does. A Notice tells of a metric that this run does not measure."""
        row = rows[-1]
        if self._stop.on and (reason := reason_to_stop(self._stop, rows)):
            self.say(reason, row)
        missed = self._stop.looks and row["round"] and self._evaluates(row["round"]) and not measured(self._stop, rows)
        if missed and not self._told:
            self._told = True
            known = ", ".join(key for key in row if describe_key(key).unit == SHARE and isinstance(row[key], float))
            text = f"stop.metric: round {row['round']} has no {self._stop.metric!r}, so it stops nothing; it has {known}"
            warnings.warn(text, Notice, stacklevel=2)

    def say(self, reason: str, row: dict[str, Any]) -> None:
        """No round after that of this row is run."""
        self._said = True
        if row["round"] < self._rounds:
            row[STOPPED] = reason
