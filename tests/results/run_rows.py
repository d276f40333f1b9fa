from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fedkd.data import Source, build_federation
from fedkd.data.federation import Federation
from fedkd.results import RunDirectory
from fedkd.results.data import RecordedData
from fedkd.results.identity import Identity

MakeRun = Callable[..., RunDirectory]


def rows_of(*accuracies: float | None, up: int = 1000) -> list[dict[str, Any]]:
    """Row 0 and one row a round; each round uploads ``up`` bytes and takes two seconds."""
    return [
        {"round": round, "accuracy": accuracy, "bytes_up": up if round else 0, "seconds": 2.0}
        for round, accuracy in enumerate(accuracies)
    ]


def insects(classes: tuple[str, ...] = ("ant", "<bee>", "cat")) -> Federation:
    """Ten images of three classes at two clients."""
    images, labels = torch.arange(40, dtype=torch.uint8).view(10, 1, 2, 2), torch.tensor([0, 0, 0, 2, 0, 0, 1, 1, 2, 2])
    source = Source("insects", images, labels, images[:3], torch.tensor([0, 1, 2]), classes)
    nothing = {"client_test": 0.2, "public": 0, "public_labels": False, "public_source": None, "validation": 0}
    rest = {"arguments": {}, "labelled": 1.0, "train_limit": 0, "seed": 0}
    return build_federation(source, clients=2, partition="iid", **nothing, **rest)  # type: ignore[arg-type]


def insects_run(run: RunDirectory) -> Identity:
    """What makes a run on insects this very run."""
    return Identity(run.experiment_toml(), RecordedData.of(insects()), {})
