"""On a real GPU: `pytest -m gpu`."""

from __future__ import annotations

import pytest
import torch

from fedkd import Experiment, simulate
from fedkd.experiment.registry import strategies

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("strategy", sorted(strategies()))
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_strategies_train_and_are_evaluated_on_the_gpu(strategy: str, precision: str) -> None:
    partition = "shared" if strategies()[strategy].needs.shared_data else "iid"
    data = {"clients": 3, "partition": partition, "train_limit": 400, "public": 50, "validation": 50}
    train = {"lr": 0.05, "batch_size": 32, "precision": precision}
    history = simulate(Experiment(strategy=strategy, rounds=2, data=data, train=train, engine={"num_gpus": 1}))
    assert history.metrics[-1]["clients_ok"] == 3
    assert 0 < history.metrics[-1]["accuracy"] <= 1


def test_two_actors_share_one_gpu() -> None:
    data = {"clients": 4, "partition": "iid", "train_limit": 300}
    engine = {"name": "ray", "actors": 2, "num_gpus": 0.5}
    assert simulate(Experiment(strategy="fedx", rounds=1, data=data, engine=engine)).metrics[-1]["clients_ok"] == 4
