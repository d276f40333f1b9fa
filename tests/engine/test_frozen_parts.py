"""Frozen weights do not travel: before round 1 a node of a deployment is refused whose own are others."""

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, RecordDict
from grids.renumbered import RenumberedGrid
from torch import nn

from fedkd import Experiment, InputError, simulate
from fedkd.engine.frozen_parts import FROZEN, frozen_fact
from fedkd.engine.joining import check_data
from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.functions import Functions
from fedkd.knowledge.memory import Memory

DATA = {"clients": 2, "partition": "iid", "train_limit": 60}


def with_backbone_of(value: float) -> Callable[..., nn.Module]:
    def net(shape: Any, classes: int) -> nn.Module:
        backbone = nn.Linear(64, 8).requires_grad_(False)
        nn.init.constant_(backbone.weight, value)
        nn.init.zeros_(backbone.bias)
        return nn.Sequential(nn.Flatten(), backbone, nn.Linear(8, classes))

    return net


def fact(nets: Any, strategy: str = "fedavg") -> str:
    experiment = Experiment(strategy=strategy, nets=nets, data=DATA | {"public": 20})
    functions = Functions(nets={} if isinstance(nets, str) else dict.fromkeys(experiment.architectures, nets))
    node = Client(0, experiment, functions, experiment.federation(), Memory(), torch.device("cpu"))
    return frozen_fact(experiment.strategy, node).get(FROZEN, "")


def test_equal_frozen_weights_have_an_equal_hash_and_others_another() -> None:
    assert fact(with_backbone_of(0.5)) == fact(with_backbone_of(0.5)) != fact(with_backbone_of(0.25))


def test_nothing_is_said_of_other_nets_and_where_nets_may_differ() -> None:
    trained = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    assert [fact("mlp"), fact(trained), fact(with_backbone_of(0.5), "fedmd")] == ["", "", ""]


def test_a_node_with_other_frozen_weights_is_named() -> None:
    replies: Any = {
        client: SimpleNamespace(
            content=RecordDict({"fedkd.instruction": ConfigRecord({FROZEN: theirs})}), has_content=lambda: True
        )
        for client, theirs in enumerate(["aa", "bb"])
    }
    told = "client 1 holds other frozen weights than the server (its hash of frozen weights is bb, the server's is aa)"
    with pytest.raises(InputError, match=re.escape(told)):
        check_data(replies, {FROZEN: "aa"})


@pytest.mark.slow
def test_nodes_with_equal_ones_join() -> None:
    experiment = Experiment(strategy="fedavg", nets=with_backbone_of(0.5), rounds=1, data=DATA)
    assert simulate(experiment, RenumberedGrid({7: {}, 9: {}})).metrics[-1]["clients_ok"] == 2
