"""Whole nodes of a Ray cluster go in mid-round: the run ends in the same bytes, on a spare node or on fewer actors."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOSE = """
import os
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "2"}
from ray.cluster_utils import Cluster

from fedkd import Experiment, simulate
from fedkd.grids import InProcessGrid, RayGrid
from fedkd.grids.cluster import keep_token_out_of_home
from fedkd.results.history import TIMES

EXPERIMENT = Experiment(
    strategy="fedmd", rounds=3, nets="mlp", evaluate_every=3, net_options={"mlp": {"hidden": [4]}},
    train={"momentum": 0.9}, data={"clients": 4, "partition": "iid", "train_limit": 120, "public": 20, "test_limit": 20},
)


def rows(history):
    return [{key: value for key, value in row.items() if key not in TIMES} for row in [*history.metrics, *history.clients]]


def lose(node):
    '''Run, and lose this node after the first answer of round 2, while others are at work or wait.'''
    seen, collect = [0], RayGrid._collect

    def then_lose(grid, seat, call):
        for reply in collect(grid, seat, call):
            if seen[0] == 1:
                seen[0] = 9
                cluster.remove_node(node, allow_graceful=False)
            yield reply

    RayGrid._collect = then_lose
    try:
        grid = RayGrid(actors=2, address=cluster.address)
        return simulate(EXPERIMENT, grid, on_round=lambda row: seen.__setitem__(0, max(seen[0], row["round"])))
    finally:
        RayGrid._collect = collect


keep_token_out_of_home()
honest = rows(simulate(EXPERIMENT, InProcessGrid()))
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
cluster.wait_for_nodes()
for name, node in (("spare", nodes[0]), ("none to spare", nodes[1])):
    print(name, rows(lose(node)) == honest, flush=True)
cluster.shutdown()
"""


@pytest.mark.slow
def test_a_run_on_ray_outlives_the_loss_of_nodes_with_the_same_bytes() -> None:
    done = subprocess.run([sys.executable, "-c", LOSE], capture_output=True, text=True, timeout=400)
    said = [line for line in done.stdout.splitlines() if line.endswith(("True", "False"))]  # Ray speaks too
    assert said == ["spare True", "none to spare True"], (done.returncode, done.stderr[-3000:])
