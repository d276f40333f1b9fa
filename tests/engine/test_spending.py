"""What a round takes of the machine: CPU time and energy, in the rows, and where they are not."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from base.test_energy import counter
from grids.renumbered import RenumberedGrid

from fedkd import Experiment, simulate
from fedkd.base import energy
from fedkd.base.energy import Energy
from fedkd.engine.round_metrics import RoundMetrics
from fedkd.engine.spending import Spending
from fedkd.grids import InProcessGrid

DATA = {"clients": 2, "partition": "iid", "train_limit": 60}
EXPERIMENT = Experiment(strategy="fedavg", nets="mlp", net_options={"mlp": {"hidden": (8,)}}, rounds=2, data=DATA)


def test_rows_say_how_long_the_processor_was_at_work_and_their_sum_is_no_more_than_the_process_took() -> None:
    before = time.process_time()
    rows = simulate(EXPERIMENT).metrics
    taken = time.process_time() - before
    each = [row["cpu_seconds"] for row in rows]
    assert len(each) == 3 and min(each) > 0
    assert sum(each) <= taken


def test_where_the_kernel_counts_energy_rows_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = counter(tmp_path, "intel-rapl:0", "package-0", 0)
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)

    def work(row: dict[str, Any]) -> None:  # between two rounds, so that it belongs to neither
        file.write_text("5000000")

    rows = simulate(EXPERIMENT, on_round=work).metrics
    assert [row["joules"] for row in rows] == [0.0, 0.0, 0.0]


def test_without_counters_rows_are_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    assert not any("joules" in row for row in simulate(EXPERIMENT).metrics)


def test_a_round_has_what_was_taken_within_it(tmp_path: Path) -> None:
    file = counter(tmp_path, "intel-rapl:0", "package-0", 2_000_000)
    grid = InProcessGrid()
    spending = Spending(grid, Energy(tmp_path))
    grid.cpu_seconds = 100.0  # of processes that it has started
    metrics = RoundMetrics(1, 60.0, spending.so_far)
    grid.cpu_seconds = 103.0
    file.write_text("4500000")
    row, _ = metrics.close()
    assert 3.0 < row["cpu_seconds"] < 100.0  # and some of this process
    assert row["joules"] == pytest.approx(2.5)


def test_what_is_at_work_on_other_machines_is_not_counted_here(tmp_path: Path) -> None:
    counter(tmp_path, "intel-rapl:0", "package-0", 0)
    cluster = InProcessGrid()
    cluster.on_this_machine = False
    assert Spending(cluster, Energy(tmp_path)).so_far().keys() == {"cpu_seconds"}  # its processes tell of theirs
    assert Spending(RenumberedGrid({1: {}}), Energy(tmp_path)).so_far() == {}  # nodes of a deployment tell nothing
