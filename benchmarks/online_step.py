"""A step of deep mutual learning on our engines against bare PyTorch loops, and against an earlier build of ours: one run.

    python benchmarks/online_step.py                       # all, about fifteen minutes; a run that was stopped goes on
    python benchmarks/online_step.py --nets tiny mlp       # the exchange alone, about five minutes
    python benchmarks/online_step.py --before c430b5a      # the build that ours is held against: any commit

Peers are ResNet-18 of width 16, batches of 64 images of Fashion-MNIST, SGD with momentum, one torch thread a peer; a round has
20 steps, and writing the peers' memories at its end is counted. What the exchange itself costs is measured with an MLP of 16
units, whose training costs next to nothing, in rounds of 400 steps: seconds a step less those of the bare loop over the same
nets. `mlp` is that net as it comes, of 200 units twice: a small net, whose training costs something. The earlier build lies in
a worktree that git makes in a temporary folder and removes in the end.

Every contender runs in a process of its own, all of them one after the other, again and again; of each its median round
counts, and of the repeats the median.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "online_step.json"
BATCH, LR, MOMENTUM = 64, 0.05, 0.9
STEPS = {"resnet18": 20, "tiny": 400, "mlp": 400}  # a round
NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet18": ("resnet18", {"width": 16}),
    "tiny": ("mlp", {"hidden": [16]}),
    "mlp": ("mlp", {}),
}
#: What runs, which net, how many peers, and in which build: this one, or the one before.
CONTENDERS = [
    *(("steps", "tiny", 2, "now"), ("dml", "tiny", 2, "now")),
    *(("in-process", "tiny", 2, "before"), ("in-process", "tiny", 2, "now")),
    *(("ray", "tiny", 2, "before"), ("ray", "tiny", 2, "now")),
    *(("steps", "mlp", 2, "now"), ("dml", "mlp", 2, "now")),
    *(("in-process", "mlp", 2, "before"), ("in-process", "mlp", 2, "now")),
    *(("steps", "resnet18", 2, "now"), ("in-process", "resnet18", 2, "now")),
    *(("dml", "resnet18", 2, "now"), ("ray", "resnet18", 2, "now")),
    *(("steps", "resnet18", 4, "now"), ("in-process", "resnet18", 4, "now")),
]


def bare(net: str, peers: int, rounds: int, *, mutual: bool) -> list[float]:
    """Seconds a step of every round of a loop that a careful person writes: K steps of training, or of mutual learning."""
    import torch
    from torch.nn.functional import cross_entropy, kl_div

    from fedkd.data import load_source
    from fedkd.nets import build_net

    torch.set_num_threads(1)
    source, (architecture, options) = load_source("fashion_mnist"), NETS[net]
    mean, std = (moment.view(1, -1, 1, 1) for moment in source.moments)
    nets = [build_net(architecture, shape=(1, 28, 28), classes=10, options=options) for _ in range(peers)]
    nets = [net.to(memory_format=torch.channels_last) for net in nets]  # type: ignore[call-overload]
    optimizers = [torch.optim.SGD(net.parameters(), lr=LR, momentum=MOMENTUM, fused=True) for net in nets]
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        for rows in torch.randperm(STEPS[net] * BATCH).split(BATCH):
            images, labels = (source.train_inputs[rows].float() / 255 - mean) / std, source.train_labels[rows]
            images = images.contiguous(memory_format=torch.channels_last)
            logits = [net(images) for net in nets]
            for me, optimizer in enumerate(optimizers):
                loss = cross_entropy(logits[me], labels)
                for other in range(peers if mutual else 0):
                    if other != me:
                        target = logits[other].detach().softmax(1)
                        loss = loss + kl_div(logits[me].log_softmax(1), target, reduction="batchmean") / (peers - 1)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        seconds.append((time.perf_counter() - began) / STEPS[net])
    return seconds


def ours(engine: str, net: str, peers: int, rounds: int) -> list[float]:
    """The same from our engine."""
    from fedkd import Experiment, simulate

    architecture, options = NETS[net]
    experiment = Experiment(
        strategy="dml",
        rounds=rounds + 1,  # the last is evaluated
        evaluate_every=10**6,
        evaluate_clients=1,
        nets=architecture,
        net_options={architecture: options},
        train={"batch_size": BATCH, "lr": LR, "momentum": MOMENTUM},
        data={
            "source": "fashion_mnist",
            "train_limit": STEPS[net] * BATCH,
            "clients": peers,
            "partition": "shared",
            "client_test": 0,
        },
        engine={"name": engine, "actors": peers} if engine == "ray" else {"name": engine},
    )
    last, seconds = [0.0], []

    def on_round(row: dict[str, Any]) -> None:
        now = time.perf_counter()
        seconds.append((now - last[0]) / STEPS[net])
        last[0] = now

    simulate(experiment, on_round=on_round)
    return seconds[1:-1]


def contend(kind: str, net: str, peers: int, rounds: int) -> list[float]:
    """Seconds a step, a number a round; the first round warms up."""
    if kind in ("steps", "dml"):
        return bare(net, peers, rounds, mutual=kind == "dml")[1:]
    return ours(kind, net, peers, rounds)[1:]


@contextmanager
def earlier(commit: str) -> Iterator[Path]:
    """The tree of a commit, in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "before"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", "--quiet", str(tree), commit], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def named(kind: str, net: str, peers: int, build: str) -> str:
    """A contender in words; bare loops have no build."""
    return f"{kind}, {net}, K = {peers}" + (", before" if build == "before" else "")


def measure(runs: dict[str, list[float]], trees: dict[str, Path], nets: list[str], repeats: int, rounds: int) -> Iterator[None]:
    """Seconds a step of each process's median round go into ``runs``; one pass for each process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}
    for repeat in range(repeats):
        for kind, net, peers, build in CONTENDERS:
            name = named(kind, net, peers, build)
            if net not in nets or len(runs.setdefault(name, [])) > repeat:
                continue
            command = [
                sys.executable,
                str(Path(__file__).resolve()),
                "--contender",
                kind,
                net,
                str(peers),
                "--rounds",
                str(rounds),
            ]
            there = {**environment, "PYTHONPATH": str(trees[build])}
            # Ray's workers look for modules in the folder that the run was begun in, before PYTHONPATH.
            where: dict[str, Any] = {"cwd": trees[build], "env": there}
            done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False, **where)
            if done.returncode:
                raise SystemExit(f"{name}: {done.stderr[-2000:]}")
            now = statistics.median(json.loads(done.stdout.splitlines()[-1]))
            runs[name].append(round(now, 6))
            print(f"  {name} ({repeat + 1}/{repeats}): {1e3 * now:.2f} ms a step", flush=True)
            yield


def ratios_of(found: dict[str, float]) -> dict[str, float]:
    """What the goals speak of, as far as it was measured."""

    def over(above: str, below: str) -> float | None:
        return found[above] / found[below] if {above, below} <= found.keys() else None

    def exchange(engine: str, build: str, share: float) -> float | None:
        """Milliseconds a step beside the bare loop, of which each core does a share."""
        whole, loop = f"{engine}, tiny, K = 2{build}", "dml, tiny, K = 2"
        return 1e3 * (found[whole] - share * found[loop]) if {whole, loop} <= found.keys() else None

    ratios: dict[str, float | None] = {
        "DML of mlp, K = 2, in-process over 2 bare training steps": over("in-process, mlp, K = 2", "steps, mlp, K = 2"),
        "the same before": over("in-process, mlp, K = 2, before", "steps, mlp, K = 2"),
        "DML, K = 2, in-process over 2 bare training steps": over("in-process, resnet18, K = 2", "steps, resnet18, K = 2"),
        "DML, K = 4, in-process over 4 bare training steps": over("in-process, resnet18, K = 4", "steps, resnet18, K = 4"),
        "DML, K = 2, on 2 Ray actors over the bare DML loop": over("ray, resnet18, K = 2", "dml, resnet18, K = 2"),
    }
    for engine, share in (("in-process", 1.0), ("ray", 0.5)):
        now, before = exchange(engine, "", share), exchange(engine, ", before", share)
        ratios[f"exchange, K = 2, {engine} (ms)"], ratios[f"exchange, K = 2, {engine}, before (ms)"] = now, before
        ratios[f"exchange, K = 2, {engine} over before"] = now / before if now is not None and before else None
    return {name: round(ratio, 3) for name, ratio in ratios.items() if ratio is not None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--nets", nargs="+", choices=list(NETS), default=list(NETS))
    parser.add_argument("--before", default="c430b5a", help="the commit of the earlier build")
    parser.add_argument("--contender", nargs=3, metavar=("KIND", "NET", "PEERS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contender:
        kind, net, peers = given.contender
        return print(json.dumps(contend(kind, net, int(peers), given.rounds)))
    from fedkd.results.environment import cpu_model

    command = f"python benchmarks/online_step.py {' '.join(sys.argv[1:])}".strip()
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    runs = kept["runs"] if kept.get("command") == command and not kept.get("finished") else {}
    with earlier(given.before) as before:
        report = {"command": command, "seed": 0, "before": given.before, "finished": False}
        for _ in measure(runs, {"now": ROOT, "before": before}, given.nets, given.repeats, given.rounds):
            machine = {"cores": os.cpu_count(), "cpu": cpu_model(), "load": os.getloadavg()[0]}
            found = {name: statistics.median(times) for name, times in runs.items() if times}
            report |= {"machine": machine, "seconds": found, "ratios": ratios_of(found), "runs": runs}
            RESULTS.write_text(json.dumps(report, indent=1) + "\n")
    RESULTS.write_text(json.dumps(report | {"finished": True}, indent=1) + "\n")
    for name, value in ratios_of({name: statistics.median(times) for name, times in runs.items() if times}).items():
        print(f"{name:60} {value:6.2f}")


if __name__ == "__main__":
    main()
