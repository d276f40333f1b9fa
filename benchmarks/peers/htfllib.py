"""HtFLlib, and the same method in fedkd: equal data, equal nets with equal first weights, equal settings where both have them.

Data are the MNIST that HtFLlib has in its repository, dealt out to 20 clients by it (Dirichlet, alpha 0.1); the seed draws
which of each client's images are used. The net is its FedAvgCNN, 582,026 parameters.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers.htfllib_edits import EDITS, apply
from torch import nn

NAME = "HtFLlib"
URL = "https://github.com/TsingZ0/HtFLlib"
COMMIT = "e959261d906f40377410bc4d9d13ba3f6af56782"
CLIENTS = 20
_COMMON = {
    "data": "MNIST",
    "clients": CLIENTS,
    "alpha": 0.1,
    "net": "FedAvgCNN",
    "rounds": 8,
    "epochs": 1,
    "test_images": 60,
}
#: Name of a setting -> what both codes are run with.
SETTINGS: dict[str, dict[str, Any]] = {
    "batches of ten": {**_COMMON, "images": 50, "batch_size": 10, "lr": 0.01},
    "one batch": {**_COMMON, "images": 100, "batch_size": 100, "lr": 0.1},
}


@dataclass(frozen=True)
class Method:
    """A method as both name it, and with what it is run.

    Args:
        theirs: its name there.
        options: theirs beside those of the setting.
        strategy: the keys of ours that are not their defaults.
        train: likewise, of [train].
        lr_factor: what the learning rate of ours is multiplied by.
    """

    theirs: str
    options: Mapping[str, Any] = field(default_factory=dict)
    strategy: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    lr_factor: float = 1.0


#: By the name in fedkd. Options of theirs are those of their total.sh.
METHODS: dict[str, Method] = {
    "local": Method("Local"),
    "fd": Method("FD", {"lamda": 1.0}),
    # The divergence there is a mean over classes too: 0.5 CE + 0.05 KL, which is 0.55 (10/11 CE + 1/11 KL).
    "fml": Method("FML", {"alpha": 0.5, "beta": 0.5}, {"alpha": 10 / 11, "beta": 10 / 11}, lr_factor=0.55),
    # And here: hence 1 / C. Nothing there bounds the weight of distillation; gradients are clipped.
    "fedkd": Method("FedKD", {"T_start": 0.95, "T_end": 0.98}, {"kl": 0.1, "least": 1e-6}, {"clip": 10.0}),
    "fedproto": Method("FedProto", {"lamda": 10.0}, {"prototype_weight": 10.0, "weighting": "uniform"}),
    "fedtgp": Method(
        "FedTGP",
        {"lamda": 10.0, "server_epochs": 100, "margin_threthold": 100.0},
        {"prototype_weight": 10.0, "margin_limit": 100.0, "server_epochs": 100},
    ),
    "fedgh": Method("FedGH", {"server_epochs": 1, "server_learning_rate": 0.01}, {"server_epochs": 1, "server_lr": 0.01}),
    "lg_fedavg": Method("LG-FedAvg"),
}


def make_net(seed: int) -> nn.Sequential:
    """Its FedAvgCNN for images of 1x28x28, with the first weights that this seed draws."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            *(nn.Conv2d(1, 32, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 10)),
        )


def unpack(code: Path, folder: Path) -> None:
    """Its code and data, as that commit has them, whatever lies in the user's copy beside."""
    paths = ["system/flcore", "system/utils", "dataset/mnist"]
    archive = subprocess.run(["git", "-C", str(code), "archive", COMMIT, *paths], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")


def write_partition(folder: Path, setting: Mapping[str, Any], seed: int) -> None:
    """The same images of each client for both: ``client/NN.npz`` for fedkd, ``dataset/drawn`` for HtFLlib."""
    wanted = {"train": setting["images"], "test": setting["test_images"]}
    (folder / "client").mkdir()
    for client in range(CLIENTS):
        arrays = {}
        for part, many in wanted.items():
            with np.load(folder / "dataset" / "mnist" / part / f"{client}.npz", allow_pickle=True) as file:
                held = file["data"].item()
            rows = np.random.default_rng([seed, client, part == "test"]).permutation(len(held["y"]))[:many]
            x, y = np.asarray(held["x"], np.float32)[rows], np.asarray(held["y"], np.int64)[rows]
            arrays |= {f"x_{part}": x, f"y_{part}": y}
            (folder / "dataset" / "drawn" / part).mkdir(parents=True, exist_ok=True)
            np.savez(folder / "dataset" / "drawn" / part / f"{client}.npz", data=np.array({"x": x, "y": y}, dtype=object))
        np.savez(folder / "client" / f"{client:02}.npz", **arrays)


def run_ours(folder: Path, method: str, setting: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The curve of the mean accuracy of clients on their own tests, seconds, and bytes up and down in all."""
    from fedkd import Experiment, simulate
    from fedkd.base.errors import Notice
    from fedkd.results.statistics import sent_down, sent_up

    how = METHODS[method]
    server_lr = {"server_lr": setting["lr"]} if method == "fedtgp" else {}
    train = {"epochs": setting["epochs"], "batch_size": setting["batch_size"], "lr": setting["lr"] * how.lr_factor}
    experiment = Experiment(
        strategy={"name": method, **how.strategy, **server_lr},
        rounds=setting["rounds"],
        seed=seed,
        nets=lambda shape, classes: make_net(seed),
        train={**train, "momentum": 0.0, "weight_decay": 0.0, **how.train},
        data={
            "source": str(folder),
            "partition": "own",
            "clients": CLIENTS,
            "classes": [str(digit) for digit in range(10)],
            "normalise": "none",  # its images are from -1 to 1
        },
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)  # of clients that test on classes they do not train on
        rows = simulate(experiment, "in-process").metrics
    return {
        "curve": [row["client_accuracy"] for row in rows],
        "seconds": sum(row["seconds"] for row in rows[1:]),
        "bytes": sum(sent_up(row) + sent_down(row) for row in rows),
    }


def run_theirs(folder: Path, method: str, setting: Mapping[str, Any], seed: int, *, changed: bool) -> dict[str, Any]:
    """The same of their code, which counts no bytes; with its edits, if changed."""
    how = METHODS[method]
    if changed:
        for edit in EDITS.get(method, ()):
            apply(edit, folder / "system")
    torch.save(first_weights(seed), folder / "initial.pt")
    (folder / "task.json").write_text(json.dumps(task_of(folder, how, setting, seed)))
    script = Path(__file__).with_name("with_htfllib.py")
    command = [sys.executable, str(script), str(folder / "task.json")]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder / "system", env=one_thread, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{NAME}, {how.theirs}, seed {seed}: {done.stderr.strip() or done.stdout.strip()}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def task_of(folder: Path, how: Method, setting: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """What the driver is told."""
    options = {
        "algorithm": how.theirs,
        "dataset": "drawn",
        "num_classes": 10,
        "num_clients": CLIENTS,
        "models": ["FedAvgCNN(in_features=1, num_classes=args.num_classes, dim=1024)"],
        "batch_size": setting["batch_size"],
        "local_learning_rate": setting["lr"],
        "mentee_learning_rate": setting["lr"],
        "local_epochs": setting["epochs"],
        "global_rounds": setting["rounds"],
    }
    initial = str(folder / "initial.pt")
    return {"algorithm": how.theirs, "seed": seed, "initial": initial, "options": {**options, **how.options}}


def first_weights(seed: int) -> dict[str, list[torch.Tensor]]:
    """What fedkd starts from: clients' nets, FedTGP's prototypes at the server, and FedKD's maps between features."""
    from fedkd.strategies.fedtgp import TrainablePrototypes

    from fedkd.base.randomness import derive, generator, seeded

    with seeded(derive(seed, "init", "module", "prototypes")):
        prototypes = list(TrainablePrototypes(10, 512).parameters())
    maps = [torch.empty(512, 512) for _ in range(CLIENTS)]
    for client, weight in enumerate(maps):
        nn.init.xavier_uniform_(weight, generator=generator(seed, 1, 0, f"client {client}", "feature map"))
    return {"net": list(make_net(seed).parameters()), "prototypes": prototypes, "maps": maps}
