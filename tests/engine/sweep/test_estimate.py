"""Trials, from which a plan says how long cells would take."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedkd import Experiment
from fedkd.engine.sweep import estimate
from fedkd.engine.sweep.estimate import trial
from fedkd.results.history import History


def test_a_trial_is_two_rounds_that_no_sink_hears_of(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Experiment] = []

    def two_rounds(experiment: Experiment, engine: str, *, out: Path) -> History:
        tried.append(experiment)
        return History(metrics=[{"round": number, "seconds": 3.0} for number in range(3)])

    monkeypatch.setattr(estimate, "run_once", two_rounds)
    asked = Experiment(rounds=10, record={"sinks": ["tensorboard", "parquet"], "uploads": True})
    assert trial(asked) == pytest.approx(10 * 3.0, abs=1.0)  # ten rounds like the last, and next to nothing around them
    assert (tried[0].rounds, tried[0].record.sinks, tried[0].record.uploads) == (2, (), True)
