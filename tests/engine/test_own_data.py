"""Each client its own data: a node's data are its client's, whole, the server needs none, and who cannot join is told why."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message
from grids.renumbered import RenumberedGrid
from own_data import CLASSES, images, joined, split_up, write
from torch import Tensor

from fedkd import Experiment, History, InputError, Knowledge, simulate
from fedkd.base.errors import Notice
from fedkd.engine.guard import guard_of
from fedkd.engine.instruction import RECORD
from fedkd.experiment.algorithm.functions import Functions
from fedkd.experiment.algorithm.server import Server
from fedkd.knowledge.memory import Memory
from fedkd.results.data import RecordedData
from fedkd.results.history import TIMES

SMALL: dict[str, Any] = {"rounds": 1, "nets": "mlp", "net_options": {"mlp": {"hidden": [8]}}, "train": {"batch_size": 16}}


def experiment(strategy: str = "fedavg", *, data: Mapping[str, Any], **changes: Any) -> Experiment:
    return Experiment(strategy=strategy, data={"clients": 2, "partition": "own", **data}, **{**SMALL, **changes})


def deployment(*paths: str, **more: Any) -> Any:
    """The grid of a deployment whose nodes have these data-paths."""
    configs = {70 + 7 * id: {"partition-id": id, "data-path": path, **more} for id, path in enumerate(paths)}
    grid = RenumberedGrid(configs)
    grid._present = list(configs)
    return grid


def given_nothing(nodes: int) -> Any:
    """The grid of a deployment whose nodes have a number and no path."""
    grid = RenumberedGrid({7 + id: {"partition-id": id} for id in range(nodes)})
    grid._present = [7 + id for id in range(nodes)]
    return grid


def weights(history: History) -> list[float]:
    return [row["weight"] for row in history.clients if row["round"] == 1]


def metrics(history: History) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in TIMES} for row in (*history.metrics, *history.clients)]


def test_two_nodes_train_on_all_of_their_own_images(tmp_path: Path) -> None:
    """One has no test split: a fifth of it is cut off. The other has one, which is its client's test, and nothing is cut."""
    nodes = write(tmp_path / "a.npz", train=images(60, 1)), write(tmp_path / "b.npz", train=images(69, 2), test=images(6, 3))
    history = simulate(experiment(data={"source": write(tmp_path / "test.npz", train=images(30, 4))}), deployment(*nodes))
    assert weights(history) == [48, 69]


def test_a_server_whose_set_has_no_splits_tests_on_all_of_it(tmp_path: Path) -> None:
    nodes = write(tmp_path / "a.npz", train=images(30, 1)), write(tmp_path / "b.npz", train=images(30, 2))
    server = write(tmp_path / "test.npz", train=images(35, 4))
    simulate(experiment(data={"source": server}), deployment(*nodes), out=tmp_path / "run")
    held = RecordedData.read(tmp_path / "run")
    assert held is not None
    assert held.test == 35
    assert held.client_train == (24, 24)
    assert held.client_test == (6, 6)


def folder(place: Path, images: Tensor, labels: Tensor) -> None:
    from PIL import Image

    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        (place / CLASSES[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(place / CLASSES[label] / f"{number:03}.png")


@pytest.mark.slow
def test_a_folder_of_clients_is_the_deployment_of_its_folders(tmp_path: Path) -> None:
    """The same keys: all clients' folders here, or at each node its own; bytes on the wire too."""
    for seed, part in enumerate(("client/north", "client/south", "test", "public"), 1):
        folder(tmp_path / "all" / part, *images(24, seed))
    folder(tmp_path / "server" / "test", *images(24, 3))
    public = {"public": 9, "public_source": str(tmp_path / "all" / "public")}
    settings = {"data": {"source": str(tmp_path / "all"), **public}, "rounds": 2, "seed": 3}
    here = simulate(experiment("fedmd", **settings))
    settings["data"]["source"] = str(tmp_path / "server")
    grid = deployment(*(str(tmp_path / "all" / "client" / name) for name in ("north", "south")))
    there = simulate(experiment("fedmd", **settings), grid)
    assert metrics(there) == metrics(here)
    settings["data"]["source"] = str(tmp_path / "all")
    assert metrics(simulate(experiment("fedmd", **settings), given_nothing(2))) == metrics(here), "each node takes its part"
    beside = simulate(experiment("fedmd", **settings | {"data": {"source": str(tmp_path / "all"), "public": 9}}))
    assert metrics(beside) == metrics(here), "the folder public/ is the public set"


def test_owners_of_one_set_are_clients_with_data_of_their_own() -> None:
    source = joined()
    history = simulate(experiment(data={"source": source, "clients": 3, "client_test": 0.0}))
    assert weights(history) == [45, 45, 40]
    assert history.metrics[-1]["accuracy_of"] == "global classifier, at the server"


@pytest.mark.slow
def test_the_global_accuracy_of_clients_nets_is_of_the_servers_test_set(tmp_path: Path) -> None:
    """Other test images at the server, another accuracy, though nothing else changes."""
    split = split_up(tmp_path, public=24)
    inputs, labels = images(30, 1)
    wrong = write(tmp_path / "inverted.npz", train=(255 - inputs, labels))
    one, other = (
        simulate(Experiment(strategy="fedmd", data=data, **{**SMALL, "train": {"batch_size": 8, "epochs": 5}}), split.grid())  # type: ignore[arg-type]
        for data in (split.own, {**split.own, "source": wrong})
    )
    last = [history.metrics[-1] for history in (one, other)]
    assert last[0]["accuracy_of"] == "clients' own main classifiers, mean"
    assert last[0]["client_accuracy"] == last[1]["client_accuracy"]
    assert last[0]["accuracy"] > last[1]["accuracy"]


def test_without_a_global_test_set_the_clients_own_scores_are_the_headline(tmp_path: Path) -> None:
    nodes = write(tmp_path / "a.npz", train=images(30, 1)), write(tmp_path / "b.npz", train=images(30, 2))
    nothing = {"source": "", "classes": CLASSES}
    history = simulate(experiment(data=nothing), deployment(*nodes), out=tmp_path / "run")
    row = history.metrics[-1]
    assert row["accuracy"] == row["client_accuracy"]
    assert row["accuracy_of"] == "global classifiers, mean over clients, each on its own test samples"
    report = (tmp_path / "run" / "report.html").read_text()
    assert "each on its own test samples, measured every round" in report
    assert "on the global test set, measured" not in report


def test_the_recorded_partition_is_the_clients(tmp_path: Path) -> None:
    few = images(30, 2)
    lacks = few[0][few[1] < 2], few[1][few[1] < 2]
    nodes = write(tmp_path / "a.npz", train=images(30, 1)), write(tmp_path / "b.npz", train=lacks)
    server = write(tmp_path / "server.npz", train=images(60, 4))
    simulate(experiment(data={"source": server}), deployment(*nodes), out=tmp_path / "run")
    assert json.loads((tmp_path / "run" / "data.json").read_text())["client_classes"] == [[10, 10, 10], [10, 10, 0]]
    assert (tmp_path / "run" / "partition.png").is_file()


def test_all_normalise_by_the_moments_of_all_clients(tmp_path: Path) -> None:
    nodes = write(tmp_path / "a.npz", train=images(30, 1)), write(tmp_path / "b.npz", train=images(51, 2))
    server = write(tmp_path / "server.npz", train=images(60, 4))
    simulate(experiment(data={"source": server}), deployment(*nodes), out=tmp_path / "run")
    held = json.loads((tmp_path / "run" / "data.json").read_text())
    together = torch.cat([images(30, 1)[0], images(51, 2)[0]]).double() / 255
    assert held["mean"] == pytest.approx([float(together.mean())])
    assert held["std"] == pytest.approx([float(together.std(correction=0))])


@pytest.mark.parametrize("normalise", ["client", "none"])
def test_other_moments_are_each_clients_own_or_none(normalise: str, tmp_path: Path) -> None:
    split = split_up(tmp_path, normalise=normalise)
    one = simulate(Experiment(strategy="fedavg", data=split.joined, **SMALL))
    other = simulate(Experiment(strategy="fedavg", data=split.own, **SMALL), split.grid())  # type: ignore[arg-type]
    assert [row["loss"] for row in other.metrics[1:]] == [row["loss"] for row in one.metrics[1:]]
    assert other.metrics[-1]["client_accuracy"] == one.metrics[-1]["client_accuracy"]


# ---- who cannot join


@pytest.fixture
def one(tmp_path: Path) -> str:
    return write(tmp_path / "a.npz", train=images(30, 1))


@pytest.fixture
def server(tmp_path: Path) -> str:
    return write(tmp_path / "server.npz", train=images(30, 4))


def refused(message: str, *nodes: str, data: Mapping[str, Any], strategy: str = "fedavg", **more: Any) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as raised:
        simulate(experiment(strategy, data=data), deployment(*nodes, **more))
    assert "\n" not in str(raised.value)


def test_a_class_that_the_run_does_not_have_is_named(one: str, server: str, tmp_path: Path) -> None:
    inputs, labels = images(30, 2)
    names = np.asarray(["ant", "bee", "emu"])[labels.numpy()]
    np.savez(tmp_path / "b.npz", x=inputs.numpy(), y=names)
    told = f"node 77 cannot join: data source {str(tmp_path / 'b.npz')!r} has classes emu, the run's are ant, bee, cow:"
    refused(told, one, str(tmp_path / "b.npz"), data={"source": server})


def test_samples_of_another_shape_are_named(one: str, server: str, tmp_path: Path) -> None:
    inputs, labels = images(30, 2)
    other = write(tmp_path / "b.npz", train=(inputs[..., :6, :6], labels))
    told = (
        "client 1 has samples of another form, image uint8 (1, 6, 6), and the server's are image uint8 (1, 8, 8): bring all to"
    )
    refused(told, one, other, data={"source": server})
    told = told.replace("the server's are", "those of client 0 are")
    refused(told, one, other, data={"source": "", "classes": CLASSES})


def test_samples_of_another_kind_are_named(one: str, server: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "b.npz", x=np.random.default_rng(0).normal(size=(30, 64)), y=np.asarray(CLASSES * 10))
    told = "client 1 has samples of another form, vector float32 (64,), and the server's are image uint8 (1, 8, 8)"
    refused(told, one, str(tmp_path / "b.npz"), data={"source": server})


def test_nobody_who_says_which_classes_there_are(one: str) -> None:
    refused('data.classes: with data.partition = "own" and no samples at the server nobody says', one, one, data={"source": ""})


def test_public_samples_that_not_all_have(one: str, server: str, tmp_path: Path) -> None:
    told = 'data.public = 9: with data.partition = "own" it must be a set that all nodes have: name it as data.public_source'
    refused(told, one, one, data={"source": server, "public": 9}, strategy="fedmd")
    mine, theirs = write(tmp_path / "p.npz", train=images(9, 7)), write(tmp_path / "q.npz", train=images(9, 8))
    data = {"source": server, "public": 9, "public_source": mine}
    told = "client 0 holds other data than the server (its public set is "
    refused(told, one, one, data=data, strategy="fedmd", **{"public-path": theirs})


def test_a_validation_set_that_the_server_lacks(one: str, server: str) -> None:
    told = "data.validation = 9, but the server has 0 labelled training samples: lower it, or give the server a train split"
    data = {"source": server, "validation": 9, "public": 9, "public_source": one}
    refused(told, server, server, data=data, strategy="feddf")


def test_a_run_in_which_nothing_would_be_evaluated(one: str) -> None:
    nothing = {"source": "", "classes": CLASSES}
    with pytest.raises(InputError, match=r"^evaluate_clients = 0: the server has no test set, .*: raise it, or give it one$"):
        simulate(experiment(data=nothing, evaluate_clients=0), deployment(one, one))


def test_a_node_that_was_given_the_data_of_all(one: str, server: str, tmp_path: Path) -> None:
    for name in ("north", "south"):
        folder(tmp_path / "all" / "client" / name, *images(12, 1))
    refused(
        "holds the data of all clients: give the node its own part as data-path",
        one,
        str(tmp_path / "all"),
        data={"source": server},
    )


def test_a_simulation_in_which_nothing_says_whose_a_sample_is(one: str) -> None:
    with pytest.raises(
        InputError, match="nothing says whose a sample is: put each client's into a folder of its own below client/"
    ):
        simulate(experiment(data={"source": one}))


def test_another_number_of_folders_than_clients(tmp_path: Path) -> None:
    for name in ("east", "north", "south"):
        folder(tmp_path / "client" / name, *images(12, 1))
    with pytest.raises(InputError, match=r"^data.clients = 2, but '.*' holds 3 clients: set data.clients = 3$"):
        simulate(experiment(data={"source": str(tmp_path), "classes": CLASSES}))


def test_nodes_whose_data_differ_hear_of_the_other_partition(one: str, server: str) -> None:
    with pytest.raises(InputError, match=re.escape('set data.partition = "own" if each is to have its own')):
        simulate(experiment(data={"source": one, "partition": "iid"}), deployment(one, server))


# ---- what is told


class Overheard(RenumberedGrid):
    """Keeps what the nodes say when they join."""

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> list[Message]:
        replies = list(super().send_and_receive(messages, timeout=timeout))
        for reply in replies:
            record = reply.content.get(RECORD)
            if isinstance(record, ConfigRecord) and "partition-id" in record:
                self.said = dict(record)
        return replies


@pytest.mark.slow
def test_under_privacy_no_number_of_a_client_is_told(one: str, server: str, tmp_path: Path) -> None:
    configs = {5: {"partition-id": 0, "data-path": one}, 6: {"partition-id": 1, "data-path": one}}
    grid: Any = Overheard(configs)
    grid._present = list(configs)
    noise = {"noise_multiplier": 1.0}
    data = {"source": server, "public": 9, "public_source": write(tmp_path / "p.npz", train=images(9, 7))}
    private = experiment("dsfl", data={**data, "normalise": "none"}, privacy=noise)
    with pytest.warns(Notice, match="not asked for their accuracy"):
        simulate(private, grid, out=tmp_path / "run")
    assert (tmp_path / "run" / "report.html").is_file() and not (tmp_path / "run" / "partition.png").exists()
    assert grid.said.keys() == {"partition-id", "fedkd", "label_space", "public_set", "form", "vocabulary"}
    with pytest.raises(InputError, match=r'^data.normalise = "global": .* set data.normalise = "client" or "none"$'):
        experiment("dsfl", data=data, privacy=noise)


def test_keys_that_do_not_go_with_it(one: str) -> None:
    with pytest.raises(InputError, match=r'^data\.train_limit = 5: with data.partition = "own" all are used: set it to 0'):
        experiment(data={"source": one, "train_limit": 5})
    with pytest.raises(InputError, match=r'^data\.classes .* data\.partition is "iid"'):
        experiment(data={"source": one, "partition": "iid", "classes": CLASSES})


@pytest.mark.slow
def test_a_run_goes_on_with_the_same_data_only(tmp_path: Path) -> None:
    for seed, name in enumerate(("client/north", "client/south", "test"), 1):
        folder(tmp_path / "all" / name, *images(24, seed))
    data = {"source": str(tmp_path / "all")}
    whole = simulate(experiment(data=data, rounds=2), out=tmp_path / "whole")
    simulate(experiment(data=data), out=tmp_path / "run")
    again = experiment(data=data, rounds=2)
    assert metrics(simulate(again, out=tmp_path / "run", resume=True)) == metrics(whole)
    folder(tmp_path / "all" / "client" / "north", *images(1, 9))
    with pytest.raises(InputError, match="began with other data"):
        simulate(again.replace(rounds=3), out=tmp_path / "run", resume=True)


def test_every_node_has_what_its_app_was_given() -> None:
    """What ``client_app(data=...)`` gives is the client's, whole: all its training samples, and its test split for its test."""
    given = experiment(data={"source": replace(joined(), groups=None)})
    assert weights(simulate(given, given_nothing(2))) == [130, 130]


def test_nobody_weighs_more_than_it_told() -> None:
    """Sizes are told when nodes join, so a claim beyond them is refused outside a simulation too."""
    given = experiment(data={"source": joined(), "clients": 3})
    server = Server(given, Functions(), given.federation(), Memory(), torch.device("cpu"))
    guard = guard_of(given.strategy, server, simulated=False, sent_to=lambda client: Knowledge())
    assert [guard.samples_of(client) for client in range(3)] == [36, 36, 32]
