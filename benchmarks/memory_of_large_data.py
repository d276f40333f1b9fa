"""Memory of a run whose samples lie on disk: images (N, 3, 32, 32) uint8, one round of two clients.

    python benchmarks/memory_of_large_data.py                # 5 GB, some minutes on two cores
    python benchmarks/memory_of_large_data.py --contenders npy --gigabytes 20

``npy`` is a sparse .npy, which takes no room on a disk that knows holes; ``arrow`` a data set that Hugging Face's library
saved, ten thousand images over and over, which takes all of it. The run, and ``import torch`` alone, are processes of their
own; of each the largest resident memory counts (VmHWM, which holds the pages of the file that are in memory too).
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
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results" / "memory_of_large_data.json"
SHAPE = (3, 32, 32)
TESTS, BLOCK = 1000, 10_000
EMPTY = "import torch"
RUN = """
import sys
from fedkd import Experiment, simulate

data = {"source": sys.argv[1], "clients": 1000, "partition": "iid"}
taking_part = {"participation": 0.002, "evaluate_clients": 2}
simulate(Experiment(strategy="fedavg", nets="cnn", rounds=1, data=data, net_options={"cnn": {"channels": [8]}}, **taking_part))
"""
PEAK = "\nprint(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM:')))"


def write_npy(folder: Path, samples: int) -> None:
    """Images that are all black, in a file with holes, and drawn labels of ten classes."""
    rng = np.random.default_rng(0)
    for split, count in (("train", samples), ("test", TESTS)):
        np.lib.format.open_memmap(folder / f"{split}_inputs.npy", mode="w+", dtype=np.uint8, shape=(count, *SHAPE))
        np.save(folder / f"{split}_labels.npy", rng.integers(0, 10, count))


def write_arrow(folder: Path, samples: int) -> None:
    """Drawn images and labels of ten classes, in the files of ``save_to_disk``: a block of them over and over."""
    import datasets

    datasets.disable_progress_bars()
    rng = np.random.default_rng(0)
    columns = {"image": datasets.Array3D(SHAPE, "uint8"), "label": datasets.ClassLabel(num_classes=10)}

    def drawn(count: int) -> datasets.Dataset:
        images = rng.integers(0, 256, (count, *SHAPE), dtype=np.uint8)
        features = datasets.Features(columns)
        return datasets.Dataset.from_dict({"image": images, "label": rng.integers(0, 10, count)}, features=features)

    train = datasets.concatenate_datasets([drawn(BLOCK)] * max(samples // BLOCK, 1))
    datasets.DatasetDict(train=train, test=drawn(TESTS)).save_to_disk(folder)


CONTENDERS = {"npy": write_npy, "arrow": write_arrow}


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


def measure(contender: str, gigabytes: float) -> dict[str, Any]:
    """Of one kind of file."""
    with tempfile.TemporaryDirectory() as folder:
        CONTENDERS[contender](Path(folder), round(gigabytes * 1e9 / np.prod(SHAPE)))
        torch, _ = peak(EMPTY)
        run, seconds = peak(RUN, folder)
    return {
        "command": f"python benchmarks/memory_of_large_data.py --contenders {contender} --gigabytes {gigabytes:g}",
        "machine": {"cores": os.cpu_count(), "python": sys.version.split()[0]},
        "import torch (MB)": round(torch),
        "run (MB)": round(run),
        "beyond torch (MB)": round(run - torch),
        "run (s)": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contenders", nargs="+", choices=[*CONTENDERS], default=[*CONTENDERS])
    parser.add_argument("--gigabytes", type=float, default=5)
    arguments = parser.parse_args()
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for contender in arguments.contenders:
        found[contender] = measure(contender, arguments.gigabytes)
        print(contender, json.dumps(found[contender], indent=1))
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
