"""What every strategy owes, shipped or added: found by looking, so a new file in strategies/ is tested without being named."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Result
from flwr.serverapp.strategy import Strategy as FlowerStrategy
from grids.forgetful import ForgetfulGrid

from fedkd import Client, Experiment, History, Knowledge, Strategy, simulate
from fedkd import app as fedkd_app
from fedkd.grids import InProcessGrid, RayGrid, run_app
from fedkd.history import TIMES
from fedkd.registry import build, describe, strategies
from fedkd.rounds import Run

NAMES = sorted(strategies())
SMALL_NETS = {"mlp": {"hidden": [16]}, "cnn": {"channels": [4, 8], "hidden": 16}}


def small(name: str, **changes: Any) -> Experiment:
    """A run of seconds: 4 clients, 160 digits, two rounds, and whatever the strategy needs."""
    needs = strategies()[name].needs
    data = {"clients": 4, "partition": "dirichlet", "alpha": 1.0, "min_partition_size": 8, "train_limit": 260}
    data |= {"public": 40 if needs.public else 0, "validation": 40 if needs.validation else 0}
    settings = {"rounds": 2, "nets": "cnn", "net_options": SMALL_NETS, "train": {"lr": 0.05, "batch_size": 32}}
    return Experiment(**{"strategy": name, "data": data, **settings, **changes})


def numbers(history: History) -> str:
    """All metrics but times, as text: equal texts are equal bits."""
    rows = [{k: v for k, v in row.items() if k not in TIMES} for row in (*history.metrics, *history.clients)]
    return json.dumps(rows, sort_keys=True)


@pytest.mark.parametrize("name", NAMES)
def test_is_a_final_frozen_dataclass_that_says_what_it_does(name: str) -> None:
    cls = strategies()[name]
    assert getattr(cls, "__final__", False)
    assert dataclasses.is_dataclass(cls)
    with pytest.raises(dataclasses.FrozenInstanceError):
        cls().anything = 1  # type: ignore[attr-defined]
    text = inspect.getdoc(cls) or ""
    assert "Paper:" in text
    assert "What travels:" in text
    assert cls.paper and cls.sends
    source, _ = inspect.getsourcelines(inspect.getmodule(cls))  # type: ignore[arg-type]
    assert len(source) <= 100


@pytest.mark.parametrize("name", NAMES)
def test_comes_back_from_its_name_and_numbers(name: str) -> None:
    strategy = strategies()[name]()
    assert build(describe(strategy)) == strategy
    experiment = small(name)
    assert Experiment.from_flat(experiment.to_flat()).to_tables() == experiment.to_tables()


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_metrics_on_a_grid_that_forgets(name: str) -> None:
    """Nothing but memory and live values may carry over; the other grid rebuilds each Context in another process."""
    experiment = small(name)
    histories = [simulate(experiment, grid) for grid in (InProcessGrid(), InProcessGrid(), ForgetfulGrid())]
    assert len({numbers(history) for history in histories}) == 1
    assert numbers(simulate(experiment.replace(seed=1))) != numbers(histories[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("actors", [1, 2])
def test_same_seed_same_metrics_on_ray(name: str, actors: int, ray_session: None) -> None:
    assert numbers(simulate(small(name), RayGrid(actors=actors))) == numbers(simulate(small(name)))


@pytest.mark.parametrize("name", NAMES)
def test_uploads_fulfil_the_schema_and_the_broadcast_stays_as_it_was(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The counted raw bytes are those of the schema, and no client writes into what the others will read."""
    seen: list[Mapping[str, torch.Tensor]] = []
    cls = strategies()[name]
    update = cls.client_update

    def watched(self: Strategy, client: Client, broadcast: Knowledge) -> Knowledge:
        before = digest(broadcast)
        upload = update(self, client, broadcast)
        assert digest(broadcast) == before
        seen.append(upload.tensors)
        return upload

    monkeypatch.setattr(cls, "client_update", watched)
    experiment = small(name, rounds=1)
    history = simulate(experiment, InProcessGrid())
    schema = experiment.strategy.upload_schema(Run(experiment, InProcessGrid()).server)
    per_upload = sum(spec.raw_bytes for spec in schema.values())
    assert history.metrics[1]["bytes_up"] == per_upload * len(seen)
    assert all(tensors.keys() == schema.keys() for tensors in seen)
    assert history.metrics[1]["clients_failed"] == 0


def digest(knowledge: Knowledge) -> str:
    content = hashlib.sha256()
    for name, tensor in knowledge.tensors.items():
        content.update(name.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.dim() else b"")
    return content.hexdigest()


@pytest.mark.parametrize("name", NAMES)
def test_the_clients_nets_move_and_every_part_of_the_loss_is_logged(name: str) -> None:
    row = simulate(small(name, rounds=1)).metrics[1]
    parts = {key: value for key, value in row.items() if key in row and isinstance(value, float) and "loss" not in key}
    assert row["loss"] > 0
    assert row["clients_ok"] == 4
    assert 0 <= row["accuracy"] <= 1
    assert parts


def in_own_server_app(experiment: Experiment, start: Callable[..., Result]) -> Result:
    """What ``start`` gives in a ServerApp of one's own, with the experiment in ``train_config``."""
    app, results = ServerApp(), []

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        config = ConfigRecord({key: value for key, value in context.run_config.items()})
        results.append(start(grid, ArrayRecord(), num_rounds=2, train_config=config))

    run_app(app, fedkd_app.client_app(), num_supernodes=4, run_config=experiment.to_flat())
    return results[0]


@pytest.mark.parametrize("name", NAMES)
def test_is_a_flower_strategy_in_its_own_loop_and_in_flowers(name: str) -> None:
    experiment = small(name)
    expected = simulate(experiment).metrics[2]
    ours = in_own_server_app(experiment, experiment.strategy.start)
    flowers = in_own_server_app(experiment, partial(FlowerStrategy.start, experiment.strategy))
    assert ours.train_metrics_clientapp[2]["clients_ok"] == 4
    assert ours.train_metrics_clientapp[2]["accuracy"] == expected["accuracy"]
    assert flowers.train_metrics_clientapp[2]["loss"] == expected["loss"]
    assert flowers.evaluate_metrics_clientapp[2]["accuracy"] == expected["accuracy"]
