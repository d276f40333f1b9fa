"""What every strategy owes, shipped or added: found by looking, so a new file in strategies/ is tested without being named."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Result
from flwr.serverapp.strategy import Strategy as FlowerStrategy
from grids.forgetful import ForgetfulGrid
from grids.hired import AnyExperiment, HiredGrid

from fedkd import Client, Experiment, History, Knowledge, Strategy, TensorSpec, UpTo, simulate
from fedkd.engine import app as fedkd_app
from fedkd.engine.run import Run
from fedkd.experiment.registry import build, describe, strategies
from fedkd.grids import InProcessGrid, RayGrid, run_app
from fedkd.results.history import TIMES
from fedkd.results.row_keys import find_entry

NAMES = sorted(strategies())
SMALL_NETS = {"mlp": {"hidden": [16]}, "cnn": {"channels": [4, 8], "hidden": 16}}


def small(name: str, **changes: Any) -> Experiment:
    """A run of a second: 4 clients, 160 digits, two rounds, and whatever the strategy needs.

    Encoders are probed before and after, at the server and at two clients: probes take longer than training does.
    """
    needs = strategies()[name].needs
    parts = {"partition": "dirichlet", "alpha": 1.0, "min_partition_size": 40}
    data = {
        "clients": 4,
        "train_limit": 300 if needs.validation else 260,
        **({"partition": "shared"} if needs.shared_data else parts),
    }
    data |= {"public": 40 if needs.public else 0, "validation": 40 if needs.validation else 0}
    settings = {"rounds": 2, "nets": "cnn", "net_options": SMALL_NETS, "train": {"lr": 0.05, "batch_size": 32}}
    if "views" in (needs.uses or ()) and not needs.shared_data:
        settings |= {"evaluate_every": 2, "evaluate_clients": 2}
    if "representations" in (needs.uses or ()):
        settings |= {"evaluation": {"label_shares": []}}
    return Experiment(**{"strategy": name, "data": data, **settings, **changes})


def numbers(history: History) -> str:
    """All metrics but times, as text: equal texts are equal bits."""
    rows = [{k: v for k, v in row.items() if k not in TIMES} for row in (*history.metrics, *history.clients)]
    return json.dumps(rows, sort_keys=True)


@cache
def finished(name: str) -> History:
    """The usual run in this process, made once for all that other runs of it are held against."""
    return simulate(small(name))


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


@pytest.mark.parametrize("name", NAMES)
def test_every_key_of_its_rows_is_in_the_list_of_keys(name: str) -> None:
    history = finished(name)
    keys = {key for row in (*history.metrics, *history.clients) for key in row}
    assert {key for key in keys if find_entry(key) is None} == set(), "describe it in fedkd/results/row_keys.py"


@pytest.mark.parametrize("name", [name for name in NAMES if strategies()[name].renamed])
def test_fields_written_down_by_an_earlier_name_are_read(name: str) -> None:
    for earlier, now in strategies()[name].renamed.items():
        assert getattr(build({"name": name, earlier: 7}), now) == 7


@pytest.mark.parametrize("name", NAMES)
def test_overrides_nothing_that_its_family_does_alike_for_all(name: str) -> None:
    """Families are the abstract classes of fedkd.methods: only what is abstract there is for a strategy to say."""
    cls = strategies()[name]
    for family in [base for base in cls.__mro__ if base.__module__.startswith("fedkd.methods.")]:
        assert inspect.isabstract(family)
        methods = {key for key, value in vars(family).items() if inspect.isfunction(value) or isinstance(value, property)}
        assert (methods - family.__abstractmethods__) & vars(cls).keys() <= {key for key in methods if key.startswith("__")}


@pytest.mark.parametrize("name", NAMES)
def test_comes_back_from_its_name_and_numbers(name: str) -> None:
    strategy = strategies()[name]()
    assert build(describe(strategy)) == strategy
    experiment = small(name)
    assert Experiment.from_flat(experiment.to_flat()).to_tables() == experiment.to_tables()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_metrics_on_a_grid_that_forgets(name: str) -> None:
    """Nothing but memory and live values may carry over; the other grid rebuilds each Context in another process."""
    histories = [finished(name), *(simulate(small(name), grid) for grid in (InProcessGrid(), ForgetfulGrid()))]
    assert len({numbers(history) for history in histories}) == 1
    assert not any(row["clients_failed"] for row in histories[0].metrics)
    assert numbers(simulate(small(name, seed=1))) != numbers(histories[0])


def of_every_kind() -> list[str]:
    """A strategy for every combination of what makes a difference to an engine.

    The grid that forgets, above, sends each strategy's messages through other processes too.
    """
    found: dict[object, str] = {}
    for name in NAMES:
        cls = strategies()[name]
        several = cls().exchanges_per_round(small(name)) > 1
        starts = cls.first_broadcast is not Strategy.first_broadcast
        needs = dataclasses.replace(cls.needs, uses=None)
        found.setdefault((needs, cls.compares_clients, cls.outlives_its_round, several, starts), name)
    return list(found.values())


@pytest.fixture(scope="module")
def workers(ray_session: None) -> Iterator[RayGrid]:
    with RayGrid(actors=2).open(AnyExperiment(), 4) as grid:
        yield grid


@pytest.mark.slow
@pytest.mark.parametrize("name", of_every_kind())
def test_same_seed_same_metrics_on_ray(name: str, workers: RayGrid) -> None:
    assert numbers(simulate(small(name), HiredGrid(workers))) == numbers(finished(name))


@pytest.mark.parametrize("name", NAMES)
def test_a_round_logs_its_loss_sends_what_the_schema_says_and_leaves_the_broadcast_as_it_was(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counted raw bytes are those of the schemas, and no client writes into what the others will read."""
    sent: list[int] = []
    cls = strategies()[name]
    update = cls.client_update

    def watched(self: Strategy, client: Client, broadcast: Knowledge) -> Knowledge:
        before = digest(broadcast)
        upload = update(self, client, broadcast)
        assert digest(broadcast) == before
        sent.append(upload.raw_bytes)
        return upload

    monkeypatch.setattr(cls, "client_update", watched)
    experiment = small(name, rounds=1)
    row = simulate(experiment, InProcessGrid()).metrics[1]
    assert (row["clients_ok"], row["clients_failed"]) == (4, 0)
    assert row["loss"] > 0
    assert 0 <= row["accuracy"] <= 1
    assert row["bytes_up"] == sum(sent)
    specs = [spec for schema in schemas(experiment) for spec in schema.values()]
    most = sum(spec.raw_bytes for spec in specs)
    exact = all(not spec.optional and not any(isinstance(side, UpTo) for side in spec.shape) for spec in specs)
    assert sum(sent) == most if exact else 0 < sum(sent) <= most


def schemas(experiment: Experiment) -> Iterator[Mapping[str, TensorSpec]]:
    """What every client owes in every exchange of a round."""
    server = Run(experiment, InProcessGrid()).server
    for exchange in range(experiment.strategy.exchanges_per_round(experiment)):
        server.exchange = exchange
        yield from (experiment.strategy.upload_schema(server, client) for client in server.clients)


def digest(knowledge: Knowledge) -> str:
    content = hashlib.sha256()
    for name, tensor in knowledge.tensors.items():
        content.update(name.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.dim() else b"")
    return content.hexdigest()


@cache
def with_client_one(name: str, change: Callable[[Client, Knowledge], Knowledge]) -> History:
    """A run of one round in which ``change`` replaces what client 1 uploads."""
    cls = strategies()[name]
    update = cls.client_update

    def changed(self: Strategy, client: Client, broadcast: Knowledge) -> Knowledge:
        upload = update(self, client, broadcast)
        return change(client, upload) if client.id == 1 else upload

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cls, "client_update", changed)
        return simulate(small(name, rounds=1), InProcessGrid())


def breaks_down(client: Client, upload: Knowledge) -> Knowledge:
    raise RuntimeError("no power")


def turns_nan(client: Client, upload: Knowledge) -> Knowledge:
    tensors = {name: t * torch.nan if t.is_floating_point() else t for name, t in upload.tensors.items()}
    return dataclasses.replace(upload, tensors=tensors, weight=torch.nan)


def grows_a_side(client: Client, upload: Knowledge) -> Knowledge:
    return upload.with_tensors("weights", {"unheard_of": torch.zeros(1, 3)})


def claims_to_be_huge(client: Client, upload: Knowledge) -> Knowledge:
    return dataclasses.replace(upload, weight=1e9)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fault", [turns_nan, grows_a_side, claims_to_be_huge])
def test_a_bad_upload_leaves_the_others_as_if_its_client_had_dropped_out(
    name: str, fault: Callable[[Client, Knowledge], Knowledge]
) -> None:
    expected, found = (with_client_one(name, change) for change in (breaks_down, fault))
    assert found.metrics[1]["clients_failed"] == expected.metrics[1]["clients_failed"] == 1
    assert "upload rejected" in found.metrics[1]["failures"]["1"]
    others = [
        [{k: v for k, v in row.items() if k not in TIMES} for row in history.clients if row["client"] != 1]
        for history in (expected, found)
    ]
    assert others[0] == others[1]
    if "server_accuracy" in expected.metrics[1]:
        assert found.metrics[1]["accuracy"] == expected.metrics[1]["accuracy"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if strategies()[name].needs.public])
def test_the_order_in_which_a_client_holds_the_public_samples_changes_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cls = strategies()[name]
    update = cls.client_update

    def elsewhere(self: Strategy, client: Client, broadcast: Knowledge) -> Knowledge:
        public = client.federation.public
        if client.id == 1 and public is not None:
            turned = dataclasses.replace(public, indices=public.indices.flip(0))
            client.federation = dataclasses.replace(client.federation, public=turned)
        return update(self, client, broadcast)

    expected = finished(name)
    monkeypatch.setattr(cls, "client_update", elsewhere)
    assert numbers(simulate(small(name), InProcessGrid())) == numbers(expected)


def in_own_server_app(experiment: Experiment, start: Callable[..., Result]) -> Result:
    """What ``start`` gives in a ServerApp of one's own, with the experiment in ``train_config``."""
    app, results = ServerApp(), []

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        config = ConfigRecord({key: value for key, value in context.run_config.items()})
        results.append(start(grid, ArrayRecord(), num_rounds=2, train_config=config))

    run_app(app, fedkd_app.client_app(), num_supernodes=4, run_config=experiment.to_flat())
    return results[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_is_a_flower_strategy_in_its_own_loop_and_in_flowers(name: str) -> None:
    experiment = small(name)
    expected = finished(name).metrics[2]
    ours = in_own_server_app(experiment, experiment.strategy.start)
    assert ours.train_metrics_clientapp[2]["clients_ok"] == 4
    assert ours.train_metrics_clientapp[2].get("accuracy") == expected.get("accuracy")
    if experiment.strategy.exchanges_per_round(experiment) > 1:
        with pytest.raises(RuntimeError, match="several exchanges a round"):
            in_own_server_app(experiment, partial(FlowerStrategy.start, experiment.strategy))
        return
    flowers = in_own_server_app(experiment, partial(FlowerStrategy.start, experiment.strategy))
    assert flowers.train_metrics_clientapp[2]["loss"] == expected["loss"]
    assert flowers.evaluate_metrics_clientapp[2]["accuracy"] == expected["accuracy"]
