"""Two nodes of a Ray cluster: the same bytes as in one process, and a broadcast crosses to each of them once."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

TWO_NODES = """
import json, os
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import numpy as np
import ray
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from ray._private.internal_api import node_stats
from ray.cluster_utils import Cluster

from fedkd import Experiment, simulate
from fedkd.grids import InProcessGrid, RayGrid
from fedkd.grids.cluster import keep_token_out_of_home, without_watchers
from fedkd.results.history import TIMES

EXPERIMENT = Experiment(
    strategy="fedavg", rounds=2, nets="mlp", net_options={"mlp": {"hidden": [4]}}, train={"momentum": 0.9},
    data={"clients": 6, "partition": "iid", "train_limit": 120, "test_limit": 20},
)
app = ClientApp()


@app.query()
def query(message, context):
    length = sum(len(array.data) for array in message.content["arrays"].values())
    return Message(RecordDict({"answer": ConfigRecord({"bytes": length})}), reply_to=message)


def rows(history):
    return [{key: value for key, value in row.items() if key not in TIMES} for row in [*history.metrics, *history.clients]]


def stored():
    '''How many bytes each node's object store has taken up so far.'''
    stats = [node_stats(n["NodeManagerAddress"], n["NodeManagerPort"], include_memory_info=False) for n in ray.nodes()]
    return [node.store_stats.cumulative_created_bytes for node in stats]


keep_token_out_of_home()
honest = rows(simulate(EXPERIMENT, InProcessGrid()))
with without_watchers():
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
same = rows(simulate(EXPERIMENT, RayGrid(actors=2, address=cluster.address))) == honest

with RayGrid(actors=4, num_cpus=0.5, address=cluster.address).open(app, 20) as grid:

    def ask(numbers):
        content = RecordDict({"arrays": ArrayRecord([np.zeros(numbers)])})
        replies = list(grid.send_and_receive([grid.create_message(content, "query", node, "") for node in range(20)]))
        assert len(replies) == 20 and all(reply.content["answer"]["bytes"] >= 8 * numbers for reply in replies)

    ask(10_000)
    before = stored()
    ask(250_000)
    print(json.dumps({"same": same, "megabytes": [(now - then) / 1e6 for then, now in zip(before, stored(), strict=True)]}))
cluster.shutdown()
"""


@pytest.mark.slow
def test_two_nodes_give_the_same_bytes_and_each_is_sent_a_broadcast_once() -> None:
    done = subprocess.run([sys.executable, "-c", TWO_NODES], capture_output=True, text=True, timeout=300)
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"same"')]  # Ray speaks too
    assert lines, done.stderr[-3000:]
    said = json.loads(lines[0])
    assert said["same"]
    # 2 MB, which 20 clients of two actors a node are sent: once in the store where it was put, once in that of each node
    assert said["megabytes"] == pytest.approx([2.0] * 3, abs=0.05)
