"""How unequal classes and clients are, in one line of the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedkd import Experiment, simulate
from fedkd.results.imbalance import imbalance


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ([[0, 0], [0, 0]], ""),
        (
            [[4, 0], [0, 0]],
            "1 of 2 classes have no training samples, as b. 2 of 2 clients lack classes, client 1 most: 2 of 2.",
        ),
        ([[3, 3], [3, 1]], "a has 1.5 times the training samples of b. No client lacks a class."),
    ],
)
def test_by_hand(counts: list[list[int]], said: str) -> None:
    assert imbalance(counts, ("a", "b")) == said


@pytest.mark.slow
def test_it_stands_in_the_report(tmp_path: Path) -> None:
    data = {"clients": 2, "partition": "iid", "train_limit": 60, "test_limit": 20}
    simulate(Experiment(strategy="local", nets="mlp", rounds=1, data=data), out=tmp_path)
    assert "times the training samples of" in (tmp_path / "report.html").read_text()
