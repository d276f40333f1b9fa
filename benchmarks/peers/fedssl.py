"""EasyFL's application fedssl, and the same method in fedkd: equal images, parts, encoders, first weights and settings.

Data are CIFAR-10's: each of five clients has two classes of its own, all of them equally many images; the seed draws which.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from peers.htfllib_edits import Edit, apply

if TYPE_CHECKING:
    from fedkd import Experiment
    from fedkd.experiment.algorithm.server import Server

NAME = "EasyFL"
URL = "https://github.com/EasyFL-AI/EasyFL"
COMMIT = "8a9554ed71b0660ee70dab3d33cdcdba55dbd29b"
_COMMON: dict[str, Any] = {
    "data": "CIFAR-10",
    "clients": 5,
    "test_images": 2000,
    "channels": [8, 16, 32],
    "hidden": 64,
    "rounds": 8,
    "mu": 0.08,
    "tau": 0.7,
}
_TRAIN = {"batch_size": 50, "lr": 0.032, "schedule": "cosine", "momentum": 0.9, "weight_decay": 5e-4}
#: Name of a setting -> what all codes are run with; images are those of each client.
SETTINGS: dict[str, dict[str, Any]] = {
    "two epochs a round": {**_COMMON, "images": 500, "train": {**_TRAIN, "epochs": 2}},
    "one step a round": {**_COMMON, "images": 50, "train": {**_TRAIN, "epochs": 1}},
}
ONLINE = {"aggregate_encoder": "online", "update_encoder": "online"}
#: By the name in fedkd: options of theirs, those of their README and papers; and the keys of ours.
METHODS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "fedbyol": ({**ONLINE, "update_predictor": "global"}, {}),
    "fedu": ({**ONLINE, "update_predictor": "dapu", "dapu_threshold": _COMMON["mu"]}, {"mu": _COMMON["mu"]}),
    "fedema": (
        {
            **ONLINE,
            "update_encoder": "dynamic_ema_online",
            "update_predictor": "dynamic_dapu",
            "auto_scaler": "y",
            "auto_scaler_target": _COMMON["tau"],
        },
        {"tau": _COMMON["tau"]},
    ),
}
HEADS = ("projection", "target_prediction")
MODEL, CLIENT = (f"applications/fedssl/{name}.py" for name in ("model", "client"))
TOGETHER = "both views go through a net together"
OWN_TARGET = Edit(
    CLIENT,
    "self.model.target_encoder = self.compressed_model.online_encoder",
    "self.model.target_encoder = copy.deepcopy(self.compressed_model.online_encoder)",
    "a target net is a net of its own from the start",
)
#: With them both compute the same, given the same heads, batches and views.
ALL_EDITS = (
    Edit(
        MODEL,
        "online_pred_one = self.online_encoder(image_one)\n        online_pred_two = self.online_encoder(image_two)",
        "online = self.online_encoder(torch.cat((image_one, image_two)))",
        TOGETHER,
    ),
    Edit(
        MODEL,
        "online_pred_one = self.online_predictor(online_pred_one)\n"
        "            online_pred_two = self.online_predictor(online_pred_two)",
        "online_pred_one, online_pred_two = self.online_predictor(online).chunk(2)",
        TOGETHER,
    ),
    Edit(
        MODEL,
        "                target_proj_one = self.target_encoder(image_one)\n"
        "                target_proj_two = self.target_encoder(image_two)\n",
        "                both = self.target_encoder(torch.cat((image_one, image_two)))\n"
        "                target_proj_one, target_proj_two = both.chunk(2)\n",
        TOGETHER,
    ),
    OWN_TARGET,
    Edit(CLIENT, "if distance > 0.5:", "if distance > 1:", "buffers of FedEMA's predictor are the global ones"),
)
#: How its code is run, by the name in the results -> with which edits. With all of them it gets fedkd's heads and views too.
CODES: dict[str, tuple[Edit, ...]] = {
    NAME: (),
    f"{NAME}, changed": ALL_EDITS,
    f"{NAME}, own target": (OWN_TARGET,),
}


def write_images(cifar10: str, file: Path, setting: Mapping[str, Any], seed: int) -> None:
    """The images that the seed draws, their labels and owners, as fedkd reads them."""
    from fedkd.data import load_source

    source, rng = load_source("cifar10", path=cifar10), np.random.default_rng(seed)
    clients, each = setting["clients"], setting["images"] * setting["clients"] // 10
    owner_of = rng.permutation(10) % clients  # class -> client
    labels = source.train_labels.numpy()
    rows = np.concatenate([rng.permutation(np.flatnonzero(labels == name))[:each] for name in range(10)])
    test = rng.permutation(len(source.test_labels))[: setting["test_images"]]
    np.savez(
        file,
        train_images=source.train_inputs[torch.from_numpy(rows)].permute(0, 2, 3, 1).numpy(),
        train_labels=labels[rows],
        train_clients=owner_of[labels[rows]],
        test_images=source.test_inputs[torch.from_numpy(test)].permute(0, 2, 3, 1).numpy(),
        test_labels=source.test_labels.numpy()[test],
    )


def experiment_of(file: Path, method: str, setting: Mapping[str, Any], seed: int) -> Experiment:
    """What fedkd runs."""
    from fedkd import Experiment

    return Experiment(
        strategy={"name": method, **METHODS[method][1]},
        rounds=setting["rounds"],
        seed=seed,
        nets="cnn",
        net_options={"cnn": {"channels": setting["channels"], "hidden": setting["hidden"], "norm": "batch"}},
        train=setting["train"],
        evaluate_clients=0,
        evaluation={"label_shares": [], "compared": 0},
        data={
            "source": str(file),
            "partition": "natural_id",
            "clients": setting["clients"],
            "client_test": 0.0,
            "normalise": "none",  # pixels are from 0 to 1, as theirs
            "views": "simclr",
        },
    )


def run_ours(file: Path, method: str, setting: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The probe's accuracy after each round."""
    from fedkd import simulate

    began = time.perf_counter()
    rows = simulate(experiment_of(file, method, setting, seed), "in-process").metrics
    return {"curve": [row["accuracy"] for row in rows], "seconds": time.perf_counter() - began}


def run_theirs(
    file: Path, method: str, setting: Mapping[str, Any], seed: int, copy: str, edits: Sequence[Edit]
) -> dict[str, Any]:
    """The same of their code, a copy with these edits, in an environment of its own, under our probe."""
    from peers.venvs import CACHE, EASYFL

    from fedkd.engine.evaluation.evaluate import evaluate_global
    from fedkd.experiment.algorithm.predictors import Embedder

    experiment = experiment_of(file, method, setting, seed)
    server = make_server(experiment)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(["git", "clone", "--quiet", "--shared", copy, str(folder / "code")], check=True)
        subprocess.run(["git", "-C", str(folder / "code"), "checkout", "--quiet", COMMIT], check=True)
        for edit in edits:
            apply(edit, folder / "code")
        if changed := edits == ALL_EDITS:
            write_views(experiment, folder / "views.npy", setting)
        torch.save(server.net(heads=HEADS).state_dict(), folder / "initial.pt")
        given = {key: setting[key] for key in ("rounds", "channels", "hidden", "train")}
        options = {"method": METHODS[method][0], "seed": seed, "changed": changed, "images": str(file)}
        (folder / "task.json").write_text(json.dumps({**given, **options}))
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
        command = [*EASYFL.command(CACHE), str(folder)]
        done = subprocess.run(command, cwd=folder, env=one_thread, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{NAME}, {method}, seed {seed}: {done.stderr.strip()[-2000:]}")
        encoders = torch.load(folder / "encoders.pt")
    net, curve = server.net(heads=HEADS).eval(), []
    for number, encoder in enumerate(encoders):
        server.round = number
        net.encoder.load_state_dict(encoder)
        curve.append(evaluate_global({"encoder": Embedder(net.features, net)}, server).row["accuracy"])
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"curve": curve, **result}


def make_server(experiment: Experiment) -> Server:
    """A server of that run, for its nets and its evaluation."""
    from fedkd.experiment.algorithm.server import Server
    from fedkd.knowledge.memory import Memory

    return Server(experiment, experiment.functions(), experiment.run_federation, Memory(), torch.device("cpu"))


def write_views(experiment: Experiment, file: Path, setting: Mapping[str, Any]) -> None:
    """All views that fedkd trains on: (clients, rounds, batches, 2, B, 3, 32, 32) float32."""
    from fedkd.experiment.algorithm.client import Client
    from fedkd.knowledge.memory import Memory

    size, batch_size = setting["train"]["epochs"] * setting["images"], setting["train"]["batch_size"]
    shape = (setting["clients"], setting["rounds"], size // batch_size, 2, batch_size, 3, 32, 32)
    views = np.lib.format.open_memmap(file, "w+", np.float32, shape)
    for id in range(setting["clients"]):
        client = Client(id, experiment, experiment.functions(), experiment.run_federation, Memory(), torch.device("cpu"))
        for round in range(setting["rounds"]):
            client.round = round + 1
            split = client.train
            for step, draw in enumerate(split.of_a_round(batch_size, split.rng("batches"))):
                batch = split.batch(draw)
                views[id, round, step] = torch.stack([batch.view(1), batch.view(2)]).numpy()  # type: ignore[list-item]
    views.flush()
