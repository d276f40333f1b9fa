"""FedX's official code on the images and parts of an experiment of ours, its encoder under our probe (for fedx_budget.py)."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from venvs import CACHE, FEDX

if TYPE_CHECKING:
    from fedkd import Experiment


def train(experiment: Experiment, *, base_alone: bool, code: str) -> dict[int, float]:
    """Accuracy of the linear probe by round.

    Args:
        experiment: its data, net and training.
        base_alone: leave FedX's terms out of its loss: there is no SimCLR alone.
        code: a copy of github.com/Sungwon-Han/FEDX.
    """
    from fedkd.engine.evaluation.probe import linear_probe
    from fedkd.experiment.algorithm.loaded import federation_of

    data, settings, seed = federation_of(experiment.data, experiment.seed), experiment.train, experiment.seed
    parts = [data.client_train(client).indices for client in range(experiment.data.clients)]
    training = {"batch-size": 2 * settings.batch_size, "lr": settings.lr, "reg": settings.weight_decay}  # it halves the batches
    budget = {"epochs": int(settings.epochs), "comm_round": experiment.rounds, "n_parties": len(parts), "init_seed": seed}
    evaluated = {"rounds": experiment.rounds, "every": experiment.evaluate_every}
    task = {"clients": len(parts), **evaluated, "base_alone": base_alone, "options": training | budget}
    arrays: dict[str, Any] = {"clients": np.repeat(np.arange(len(parts)), [len(part) for part in parts])}
    for split, rows, source in (("train", torch.cat(parts), data.train), ("test", data.test.indices, data.test)):
        images = source.inputs[rows]
        assert isinstance(images, torch.Tensor) and images.dtype == torch.uint8
        arrays[f"{split}_images"] = images.permute(0, 2, 3, 1).numpy()
        arrays[f"{split}_labels"] = source.labels[rows].numpy()
    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder) / "task.npz", Path(folder) / "features.npz"
        np.savez(given, task=json.dumps(task | experiment.net_options["cnn"]), **arrays)
        subprocess.run([*FEDX.command(CACHE), code, str(given), str(out)], check=True, stdout=subprocess.DEVNULL)
        features = {name: torch.from_numpy(array) for name, array in np.load(out).items()}
    labels, wanted = (torch.from_numpy(arrays[f"{split}_labels"]) for split in ("train", "test"))
    accuracies = {}
    for number in sorted(int(name.removeprefix("train_")) for name in features if name.startswith("train_")):
        rng = torch.Generator().manual_seed(seed)
        probe = linear_probe(features[f"train_{number}"], labels, classes=10, generator=rng)
        accuracies[number] = float((probe.logits(features[f"test_{number}"]).argmax(1) == wanted).float().mean())
    return accuracies
