"""Two nodes of a Ray cluster, of one core each, against one node of two: seconds a round, and what crosses between the nodes.

    python benchmarks/two_nodes.py                # about four minutes on two idle cores
    python benchmarks/two_nodes.py --clients 50 --rounds 4 --repeats 1

Both clusters stand on this machine (``ray.cluster_utils.Cluster``), so that nodes are as near as they can be: what is
measured is Ray's own way from node to node. They take turns; of a run the median of the rounds after the first counts, and of
the turns the median. The nodes' object stores are counted too: the weights of a round come to each once, for all its clients.
Results are kept as they come: the same command goes on where one was cut short (--fresh starts anew).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "two_nodes.json"
#: name -> the cores of each node.
CLUSTERS = {"one node": [2], "two nodes": [1, 1]}
IMAGES = 64


def run(name: str, clients: int, rounds: int) -> None:
    """Train on such a cluster, and print a line of JSON a round."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray._private.internal_api import node_stats
    from ray.cluster_utils import Cluster

    from fedkd import Experiment, simulate
    from fedkd.grids import RayGrid
    from fedkd.grids.cluster import keep_token_out_of_home, without_watchers

    keep_token_out_of_home()
    with without_watchers():
        cluster = Cluster()
        for cores in CLUSTERS[name]:
            cluster.add_node(num_cpus=cores, include_dashboard=False)
        cluster.wait_for_nodes()

    def stored() -> list[int]:
        nodes = [node_stats(n["NodeManagerAddress"], n["NodeManagerPort"], include_memory_info=False) for n in ray.nodes()]
        return sorted(node.store_stats.cumulative_created_bytes for node in nodes)

    last: list[Any] = []

    def on_round(row: dict[str, Any]) -> None:
        now, held = time.perf_counter(), stored()
        if row["round"]:
            stores = [(after - before) / 1e6 for before, after in zip(last[1], held, strict=True)]
            print(json.dumps({"round": row["round"], "seconds": now - last[0], "megabytes_stored": stores}), flush=True)
        last[:] = time.perf_counter(), held

    data = {"source": "fashion_mnist", "train_limit": clients * IMAGES, "clients": clients, "partition": "iid"}
    experiment = Experiment(
        strategy="fedavg",
        rounds=rounds + 1,  # the last one is evaluated, so it is left out
        nets="cnn",
        train={"batch_size": 32, "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-5},
        evaluate_every=10**6,
        evaluate_clients=0,
        data=data | {"client_test": 0.0},
    )
    simulate(experiment, RayGrid(actors=2, address=cluster.address), on_round=on_round)
    cluster.shutdown()


def measure(name: str, clients: int, rounds: int) -> dict[str, Any]:
    """One turn, in a process of its own."""
    command = [sys.executable, __file__, "--cluster", name, "--clients", str(clients), "--rounds", str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"round"')]
    later = [row for row in rows if 2 <= row["round"] <= rounds]
    if done.returncode or not later:
        raise SystemExit(f"{' '.join(command)}: {done.stderr[-2000:]}")
    stored = [statistics.median(sizes) for sizes in zip(*(row["megabytes_stored"] for row in later), strict=True)]
    return {"seconds_a_round": statistics.median(row["seconds"] for row in later), "megabytes_stored_a_round": stored}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--cluster", choices=CLUSTERS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.cluster:
        return run(given.cluster, given.clients, given.rounds)
    asked = {"clients": given.clients, "rounds": given.rounds}
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() and not given.fresh else {}
    turns: dict[str, list[Any]] = kept["turns"] if kept.get("asked") == asked else {name: [] for name in CLUSTERS}
    machine = {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2), "python": sys.version.split()[0]}
    for repeat in range(given.repeats):
        for name, done in turns.items():
            if len(done) <= repeat:
                done.append(measure(name, given.clients, given.rounds))
            pairs = zip(*(turns[name] for name in reversed(CLUSTERS)), strict=False)
            ratios = [two["seconds_a_round"] / one["seconds_a_round"] for two, one in pairs]
            found = {"asked": asked, "machine": machine, "turns": turns}
            found["two nodes / one node"] = round(statistics.median(ratios), 3) if ratios else None
            RESULTS.write_text(json.dumps(found, indent=1) + "\n")
            print(f"{name} ({repeat + 1} of {given.repeats}): {done[repeat]}", file=sys.stderr)
    print(f"two nodes / one node: {found['two nodes / one node']}")


if __name__ == "__main__":
    main()
