"""Many clients, many runs: what is held does not grow."""

from __future__ import annotations

import gc
import threading
import tracemalloc
from typing import Any

import pytest

from fedkd import Experiment, simulate
from fedkd.grids import InProcessGrid

pytestmark = pytest.mark.slow

NETS = {"nets": "mlp", "net_options": {"mlp": {"hidden": [16]}}}


def test_memory_is_flat_over_rounds_and_who_keeps_nothing_has_no_context_between_them() -> None:
    """A thousand clients of one sample each, ten a round, twelve rounds."""
    grid, sizes = InProcessGrid(), []

    def on_round(row: dict[str, Any]) -> None:
        assert not len(grid._contexts)
        gc.collect()
        sizes.append(tracemalloc.get_traced_memory()[0])

    data = {"clients": 1000, "partition": "iid", "client_test": 0.0}
    experiment = Experiment(strategy="fedavg", rounds=12, participation=0.01, evaluate_clients=0, data=data, nets="mlp")
    tracemalloc.start()
    try:
        history = simulate(experiment, grid, on_round=on_round)
    finally:
        tracemalloc.stop()
    assert 80 <= len({row["client"] for row in history.clients}) <= 120
    per_round = history.metrics[-1]["bytes_up"]
    assert sizes[12] - sizes[4] < per_round / 3  # eight rounds of rows, and of no weights


def test_fifty_runs_leave_no_thread_and_no_memory_behind() -> None:
    experiment = Experiment(strategy="fedavg", rounds=1, data={"clients": 2, "partition": "iid", "train_limit": 40}, **NETS)
    threads, sizes = threading.active_count(), []
    tracemalloc.start()
    try:
        for runs in (10, 40):
            for _ in range(runs):
                simulate(experiment)
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert threading.active_count() == threads
    assert sizes[1] - sizes[0] < 100_000  # bytes, of the last forty
