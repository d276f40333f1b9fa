"""What strategies of every kind compute, to the last bit: a hash of each run's metrics, client rows and final nets.

Run before and after a change that must change no result, and compare:

    python benchmarks/fingerprints.py --out before.json
    python benchmarks/fingerprints.py --against before.json

Both on one machine: another processor may round otherwise.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path

SMALL = {"rounds": "2", "data.train_limit": "800", "train.epochs": "1", "participation": "0.6"}
LOSSLESS = {"uplink": '["delta", "deflate"]', "downlink": '["delta", "deflate"]'}
LOSSY = {"uplink": '["int8"]', "downlink": '["float16"]'}
HALF = {"uplink": '["float16"]', "downlink": '["float16"]'}
#: Strategy -> what its run is given beside SMALL: weights, logits, prototypes, nets with branches, peers, teachers, encoders.
STRATEGIES: dict[str, dict[str, str]] = {
    "fedavg": LOSSY,
    "fml": LOSSLESS,
    "fedkd": {},
    "feddf": HALF,
    "cronus": LOSSLESS,
    "dsfl": HALF,
    "fd": HALF,
    "fedproto": LOSSLESS,
    "codistillation": LOSSY,
    "byot": LOSSLESS,
    "d_distillation": {},
    "dml": HALF,
    "okddip": HALF,
    "mcl": LOSSLESS,
    "dgkd": {},
    "fedprotocl": LOSSLESS,
    "fedu": LOSSY,
    "encoder_distillation": {"downlink": '["float16"]'},
}
ENGINES = ("in-process", "ray")
#: Of a hash, in hexadecimal.
DIGITS = 12
#: Keys of a row that differ from run to run.
TIMES = ("seconds", "cpu_seconds", "joules", "client_seconds")


def main() -> None:
    """Run all, and write or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the hashes here")
    parser.add_argument("--against", type=Path, help="compare with the hashes of this file; exit code 1 if any differs")
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), choices=list(STRATEGIES))
    parser.add_argument("--added", nargs="+", default=[], help="keys of rows that a change adds: all others are compared")
    given = parser.parse_args()
    wanted = json.loads(given.against.read_text()) if given.against else {}
    found = dict[str, dict[str, str]]()
    differing = list[str]()
    with tempfile.TemporaryDirectory() as folder:
        for name in given.strategies:
            for engine in given.engines:
                key = f"{name} on {engine}"
                found[key] = fingerprint(run(name, engine, Path(folder) / name / engine), {*TIMES, *given.added})
                same = not wanted or wanted.get(key) == found[key]
                differing += [] if same else [key]
                print(
                    f"{key:36}",
                    *found[key].values(),
                    "" if same else f"was {wanted.get(key)}",
                    flush=True,
                )
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n")
    if wanted:
        print(f"{len(found) - len(differing)} of {len(found)} runs are equal to the last bit")
    sys.exit(bool(differing))


def run(name: str, engine: str, out: Path) -> Path:
    """A small run of a strategy on digits by the command; its directory."""
    example = Path(__file__).parents[1] / "simulations" / f"digits_{name}.toml"
    keys = SMALL | STRATEGIES[name] | {"engine.name": engine}
    settings = [word for key, value in keys.items() for word in ("--set", f"{key}={value}")]
    command = [str(Path(sys.executable).with_name("fedkd")), "run", str(example), "--out", str(out), *settings]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} on {engine}: {done.stderr.strip()}")
    return out


def fingerprint(directory: Path, without: Collection[str] = TIMES) -> dict[str, str]:
    """The hashes of a run's metrics and client rows, without these keys, and of its nets."""
    hashes = {}
    for file in ("metrics.jsonl", "clients.jsonl"):
        rows = [json.loads(line) for line in (directory / file).read_text().splitlines()]
        kept = [{key: value for key, value in row.items() if key not in without} for row in rows]
        hashes[file] = hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:DIGITS]
    nets = hashlib.sha256()
    for net in sorted((directory / "nets").glob("*.safetensors")):
        nets.update(net.name.encode() + net.read_bytes())
    return {**hashes, "nets": nets.hexdigest()[:DIGITS]}


if __name__ == "__main__":
    main()
