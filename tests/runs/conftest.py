from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from fedkd.data import Source, build_federation
from fedkd.data.federation import Federation
from fedkd.runs import RunDirectory


def description(strategy: str, seed: int, rounds: int, **data: object) -> str:
    extra = "".join(f"{key} = {value!r}\n" for key, value in data.items())
    head = f'rounds = {rounds}\nseed = {seed}\nnets = "cnn"\n'
    return f'{head}[strategy]\nname = "{strategy}"\n[data]\nsource = "digits"\nclients = 2\n{extra}'


def insects(classes: tuple[str, ...] = ("ant", "<bee>", "cat")) -> Federation:
    """Ten images of three classes at two clients."""
    images, labels = torch.arange(40, dtype=torch.uint8).view(10, 1, 2, 2), torch.tensor([0, 0, 0, 2, 0, 0, 1, 1, 2, 2])
    source = Source("insects", images, labels, images[:3], torch.tensor([0, 1, 2]), classes)
    nothing = {"client_test": 0.2, "public": 0, "public_labels": False, "public_source": None, "validation": 0}
    rest = {"arguments": {}, "labelled": 1.0, "train_limit": 0, "seed": 0}
    return build_federation(source, clients=2, partition="iid", **nothing, **rest)  # type: ignore[arg-type]


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunDirectory]:
    """Makes a run directory under ``tmp_path`` with the given rows; ``finish`` writes figures and report too."""
    federation = insects()

    def make(
        name: str = "run",
        *,
        strategy: str = "fedx",
        seed: int = 0,
        rows: Sequence[Mapping[str, Any]] = (),
        clients: Sequence[Mapping[str, Any]] = (),
        finish: bool = False,
        **data: object,
    ) -> RunDirectory:
        rounds = len(rows) - 1 if rows else 2
        text = description(strategy, seed, rounds, **data)
        directory = RunDirectory.create(tmp_path / name, experiment_toml=text, federation=federation)
        for row in rows:
            directory.append(row, clients)
        if finish:
            directory.finish({"global": {"weight": torch.zeros(2, 3)}})
        return directory

    return make
