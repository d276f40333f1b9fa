"""Memory of a run whose samples lie on disk: a sparse .npy of images (N, 3, 32, 32) uint8, one round of two clients.

    python benchmarks/memory_of_large_data.py                # 5 GB, about two minutes on two cores
    python benchmarks/memory_of_large_data.py --gigabytes 20

The run, and ``import torch`` alone, are processes of their own; of each the largest resident memory counts (ru_maxrss, which
holds the pages of the file that are in memory too). The file takes no room on a disk that knows holes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results" / "memory_of_large_data.json"
SHAPE = (3, 32, 32)
TESTS = 1000
EMPTY = "import torch"
RUN = """
import sys
from fedkd import Experiment, simulate

data = {"source": sys.argv[1], "clients": 1000, "partition": "iid"}
taking_part = {"participation": 0.002, "evaluate_clients": 2}
simulate(Experiment(strategy="fedavg", nets="cnn", rounds=1, data=data, net_options={"cnn": {"channels": [8]}}, **taking_part))
"""
PEAK = "\nimport resource\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"


def write(folder: Path, samples: int) -> None:
    """Images that are all black, in a file with holes, and drawn labels of ten classes."""
    rng = np.random.default_rng(0)
    for split, count in (("train", samples), ("test", TESTS)):
        np.lib.format.open_memmap(folder / f"{split}_inputs.npy", mode="w+", dtype=np.uint8, shape=(count, *SHAPE))
        np.save(folder / f"{split}_labels.npy", rng.integers(0, 10, count))


def peak(code: str, *arguments: str) -> tuple[float, float]:
    """The largest resident memory in MB of a process that runs this code, and its seconds."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code + PEAK, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return int(done.stdout.split()[-1]) / 1024, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=5)
    gigabytes = parser.parse_args().gigabytes
    samples = round(gigabytes * 1e9 / np.prod(SHAPE))
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), samples)
        torch, _ = peak(EMPTY)
        run, seconds = peak(RUN, folder)
    found = {
        "command": f"python benchmarks/memory_of_large_data.py --gigabytes {gigabytes:g}",
        "machine": {"cores": os.cpu_count(), "python": sys.version.split()[0]},
        "samples": samples,
        "import torch (MB)": round(torch),
        "run (MB)": round(run),
        "beyond torch (MB)": round(run - torch),
        "run (s)": round(seconds, 1),
    }
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
