"""Nets, data and a strategy of a user's own: named in a file of theirs, or given from Python. Never named by a message."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fedkd import Experiment, InputError, simulate
from fedkd.data import Source

SMALL: dict[str, Any] = {"rounds": 1, "nets": "mlp", "data": {"clients": 2, "partition": "iid", "train_limit": 40}}
MODULE = """
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import nn

from fedkd import Knowledge, Strategy
from fedkd.data import Source


def net(shape, classes, *, width=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2], width), nn.Linear(width, classes))


def data():
    images = torch.arange(40, dtype=torch.uint8).repeat_interleave(4).view(40, 1, 2, 2)
    labels = torch.arange(40) % 2
    return Source("mine", images, labels, images[:4], labels[:4], ("even", "odd"))


def loss(student, teacher):
    return ((student.softmax(1) - teacher.softmax(1)) ** 2).sum(1).mean()


@final
@dataclass(frozen=True)
class MyStrategy(Strategy):
    power: float = 2.0

    paper: ClassVar[str] = "none"
    sends: ClassVar[str] = "nothing"

    def client_update(self, client, broadcast):
        return Knowledge(metrics={"loss": self.power * client.id})

    def server_update(self, server, uploads):
        return Knowledge()

    def predictors(self, node, broadcast):
        return {}

    def upload_schema(self, server, client):
        return {}
"""


@pytest.fixture
def my_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A user's file in the current directory."""
    (tmp_path / "my_module.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("my_module", None)


@pytest.mark.usefixtures("my_module")
@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"nets": "my_module:net"}, "nets"),
        ({"nets": {"my_module:net": 0.5, "mlp": 0.5}, "strategy": "local"}, "nets"),
        ({"data": {**SMALL["data"], "source": "my_module:data"}}, "data.source"),
        ({"strategy": {"name": "my_module:MyStrategy", "power": 3.0}}, "strategy.name"),
        ({"strategy": {"name": "fml", "loss": "my_module:loss"}, "shared_net": "mlp"}, "strategy.loss"),
        (
            {
                "strategy": {"name": "dgkd", "assistants": ["my_module:net"]},
                "data": {**SMALL["data"], "public": 10},
                "rounds": 2,
            },
            "strategy.assistants",
        ),
    ],
)
def test_a_file_may_name_code_and_a_config_may_not(changes: dict[str, Any], key: str, read: Callable[..., Experiment]) -> None:
    """No message makes a client import anything: the app must have been built with what the config names."""
    experiment = Experiment(**{**SMALL, **changes})
    with pytest.raises(InputError, match=rf"^{key}: a config may not name code: pass \w+= to the app for 'my_module:"):
        Experiment.from_flat(
            {name: value for name, value in experiment.to_flat().items() if "test_experiment" not in str(value)}
        )
    assert Experiment.from_flat(experiment.to_flat(), experiment.functions()).to_tables() == experiment.to_tables()
    assert read(experiment.to_toml()).to_tables() == experiment.to_tables()
    assert simulate(experiment).metrics[1]["clients_ok"] == 2


@pytest.mark.usefixtures("my_module")
def test_options_of_a_users_net_and_fields_of_a_users_strategy_arrive(read: Callable[..., Experiment]) -> None:
    shape = 'rounds = 1\nnets = "my_module:net"\n[net_options."my_module:net"]\nwidth = 3\n'
    data = '[data]\nsource = "my_module:data"\nclients = 2\npartition = "iid"\n'
    row = simulate(read(shape + data)).metrics[1]
    assert row["bytes_up"] == 2 * 4 * ((4 * 3 + 3) + (3 * 2 + 2))  # clients x bytes x parameters
    row = simulate(read(data, **{"strategy.name": "my_module:MyStrategy", "strategy.power": "5", "rounds": "1"})).metrics[1]
    assert row["loss"] == 2.5  # the mean of 5 x 0 and 5 x 1
    with pytest.raises(InputError, match="the module has no 'nett': did you mean 'net'"):
        simulate(read(data.replace("[data]", 'nets = "my_module:nett"\n[data]')))


def tiny() -> Source:
    images = torch.arange(40, dtype=torch.uint8).repeat_interleave(4).view(40, 1, 2, 2)
    labels = torch.arange(40) % 2
    return Source("tiny", images, labels, images[:4], labels[:4], ("even", "odd"))


def test_functions_given_from_python_need_no_name() -> None:
    net = lambda shape, classes: nn.Sequential(nn.Flatten(), nn.Linear(4, classes))  # noqa: E731
    data = {"clients": 2, "partition": "iid", "source": lambda: tiny()}
    experiment = Experiment(rounds=1, nets=net, data=data)
    assert (experiment.to_flat()["nets"], experiment.to_flat()["data.source"]) == ("<function>", "<function>")
    assert simulate(experiment).metrics[1]["bytes_up"] == 2 * 4 * (4 * 2 + 2)
    with pytest.raises(InputError, match="nets: a config may not name code: pass nets= to the app"):
        Experiment.from_flat(experiment.to_flat())
