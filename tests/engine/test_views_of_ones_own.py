"""``data.views = "my_module:views"``: a function of the user's own, recorded with the run and handed to every worker."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from fedkd import Experiment, simulate
from fedkd.grids import RayGrid
from fedkd.testing.kinds_of_samples import vectors
from fedkd.testing.trial import numbers


def dimmed(inputs: Tensor, rng: torch.Generator) -> Tensor:
    return inputs * torch.rand(len(inputs), 1, generator=rng)


def experiment(views: str) -> Experiment:
    data = {"source": vectors, "clients": 2, "partition": "iid", "views": views}
    nets = {"nets": "mlp", "net_options": {"mlp": {"hidden": [8]}}}
    return Experiment(strategy="fedsimclr", rounds=1, evaluate_clients=1, data=data, **nets)


@pytest.mark.slow
def test_they_are_used_and_their_text_is_kept(tmp_path: Path) -> None:
    own = simulate(experiment(f"{__name__}:dimmed"), out=tmp_path / "own")
    text = (tmp_path / "own" / "code" / "code-test_views_of_ones_own.dimmed.py").read_text()
    assert "torch.rand(len(inputs), 1, generator=rng)" in text
    assert own.metrics[-1]["loss"] != simulate(experiment("corrupt")).metrics[-1]["loss"]


@pytest.mark.slow
def test_workers_use_the_same(ray_session: None) -> None:
    own = experiment(f"{__name__}:dimmed")
    assert numbers(simulate(own, RayGrid(actors=1))) == numbers(simulate(own))
