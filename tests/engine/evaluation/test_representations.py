"""The evaluation of representations: few labels, a client's own labels, own encoders, alikeness, fine-tuning, pictures."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import pytest
import torch
from contract import number
from safetensors.torch import load_file
from test_evaluate import Scored, brightness, two_classes
from torch import Tensor

from fedkd import Client, Embedder, Experiment, History, InputError, Knowledge, Node, Predictor, Server, simulate
from fedkd.base.randomness import derive, generator
from fedkd.data import Source
from fedkd.engine import evaluation_round
from fedkd.engine.answers import means, probe_accuracies
from fedkd.engine.evaluation import encoders
from fedkd.engine.evaluation.encoders import drawn_from_test, features_of, few_labels
from fedkd.engine.evaluation.few_labels import stratified
from fedkd.engine.evaluation.probe import linear_probe
from fedkd.engine.evaluation.representations import alignment, linear_cka, uniformity
from fedkd.experiment.algorithm.functions import Functions
from fedkd.experiment.algorithm.train import Draw
from fedkd.grids import InProcessGrid
from fedkd.knowledge.memory import Memory
from fedkd.methods.encoders.global_encoder import average
from fedkd.nets import Encoder, Net, load
from fedkd.results.history import TIMES
from fedkd.results.representations import read_representations, representation_files

NEW = {"probe_1_percent_accuracy", "probe_10_percent_accuracy", "alignment", "uniformity", "client_probe_accuracy"}
TUNED = {"fine_tuned_1_percent_accuracy", "fine_tuned_10_percent_accuracy"}


def digits(strategy: Any = "fedsimclr", *, rounds: int = 2, data: Mapping[str, Any] = {}, **changes: Any) -> Experiment:
    held = {"clients": 3, "partition": "iid", "train_limit": 120, "test_limit": 60, **data}
    nets = {"nets": "cnn", "net_options": {"cnn": {"channels": [4, 8], "hidden": 16}}}
    return Experiment(**{"strategy": strategy, "rounds": rounds, "data": held, "train": {"lr": 0.05}, **nets, **changes})


def server_of(experiment: Experiment, round: int = 0) -> Server:
    server = Server(experiment, Functions(), experiment.federation(), Memory(), torch.device("cpu"))
    server.round = round
    return server


# Which labels


def test_a_share_of_each_class_is_drawn_and_at_least_one() -> None:
    labels = torch.tensor([0] * 100 + [1] * 30 + [5])
    taken = labels[stratified(labels, 0.1, generator=generator(0))]
    assert torch.bincount(taken).tolist() == [10, 3, 0, 0, 0, 1]
    assert torch.bincount(labels[stratified(labels, 0.01, generator=generator(0))]).tolist() == [1, 1, 0, 0, 0, 1]
    assert torch.equal(stratified(labels, 1.0, generator=generator(0)), torch.arange(131))
    assert len(stratified(torch.empty(0, dtype=torch.int64), 0.1, generator=generator(0))) == 0


def test_the_draw_is_that_of_the_run_whatever_the_round_and_larger_shares_hold_smaller_ones() -> None:
    labels = torch.arange(200) % 4
    draws = [few_labels(labels, 0.1, server_of(digits(), round)) for round in (0, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], few_labels(labels, 0.1, server_of(digits(seed=1))))
    assert set(draws[0].tolist()) < set(few_labels(labels, 0.3, server_of(digits())).tolist())


# Rows


@pytest.fixture(scope="module")
def simclr() -> History:
    return simulate(digits(evaluation={"fine_tune_epochs": 2}))


@pytest.mark.slow
def test_a_self_supervised_row_says_how_good_its_representations_are(simclr: History) -> None:
    assert all(row.keys() >= NEW for row in simclr.metrics)
    assert [row.keys() & TUNED for row in simclr.metrics] == [set(), set(), TUNED]  # after the last round only
    assert ["client_cka" in row for row in simclr.metrics] == [False, True, True]  # nobody trained before round 1
    assert all(0 <= row["alignment"] <= 4 and -8 <= row["uniformity"] <= 0 for row in simclr.metrics)
    assert all(0 < row["client_cka"] < 1 for row in simclr.metrics[1:])


def test_a_supervised_row_says_none_of_it() -> None:
    row = simulate(digits("fedavg", rounds=1)).metrics[1]
    assert not row.keys() & (NEW | TUNED | {"client_cka", "probe_accuracy"})


@pytest.mark.slow
def test_what_is_switched_off_is_not_said_and_changes_nothing_else(simclr: History) -> None:
    plain = simulate(digits(evaluation={"label_shares": [], "compared": 0})).metrics
    left_out = (NEW | TUNED | {"client_cka"}) - {"client_probe_accuracy"}
    assert not any(row.keys() & left_out for row in plain)
    assert [{k: v for k, v in row.items() if k not in TIMES} for row in plain] == [
        {k: v for k, v in row.items() if k not in left_out.union(TIMES)} for row in simclr.metrics
    ]


@pytest.mark.slow
def test_encoders_are_compared_in_rounds_that_are_evaluated() -> None:
    rows = simulate(digits(rounds=3, evaluate_every=2)).metrics
    assert [row["round"] for row in rows if "client_cka" in row] == [2, 3]
    alone = simulate(digits(rounds=1, data={"clients": 1})).metrics[1]
    assert "client_cka" not in alone and "alignment" in alone


@pytest.mark.slow
def test_scores_in_the_row_are_those_of_the_functions() -> None:
    """Of the net before training: recomputed here from its weights."""
    experiment = digits(rounds=1, evaluation={"compared": 20})
    row, server = simulate(experiment).metrics[0], server_of(experiment)
    net = server.net(heads=("projection",)).eval()
    positions = drawn_from_test(server, 20)
    assert len(positions) == 20 and torch.equal(positions, positions.sort().values)
    samples = server.federation.test.subset(positions)
    features = features_of(net.features, samples, server).values
    assert row["uniformity"] == pytest.approx(uniformity(features))
    seed = derive(derive(experiment.seed, "alignment", 0), 0)  # of round 0, and of the images from number 0 on
    batch = server.split(samples).batch(Draw(torch.arange(20), seed))
    with torch.no_grad():
        assert row["alignment"] == pytest.approx(alignment(net.features(batch.view(1)), net.features(batch.view(2))))


def test_client_cka_is_that_of_the_uploaded_encoders() -> None:
    experiment = digits(rounds=1, evaluation={"compared": 30})
    server = server_of(experiment, round=1)
    weights = [server.net(f"net {i}", init="own", heads=("projection",)).state_dict() for i in (0, 1)]
    uploads = {i: Knowledge.of("weights", {k: t.clone() for k, t in w.items()}) for i, w in enumerate(weights)}
    average(server, uploads)
    samples = server.federation.test.subset(drawn_from_test(server, 30))
    features = []
    for upload in uploads.values():
        net = server.net("again", heads=("projection",)).eval()
        load(net, upload.tensors)
        features.append(features_of(net.features, samples, server).values)
    assert server.reported == {"client_cka": pytest.approx(linear_cka(*features))}


@pytest.mark.slow
def test_fine_tuning_trains_a_copy(simclr: History) -> None:
    """The global net goes on as it was: the probe's accuracy is that of a run without fine-tuning."""
    assert simulate(digits()).metrics[-1]["probe_accuracy"] == simclr.metrics[-1]["probe_accuracy"]


@pytest.mark.slow
def test_fine_tuning_learns_what_a_random_encoder_does_not_tell() -> None:
    data = {"train_limit": 1000, "test_limit": 0, "clients": 2}
    evaluation = {"label_shares": 0.5, "fine_tune_epochs": 25}
    train = {"lr": 0.1, "batch_size": 32}
    row = simulate(digits(Untrained(), rounds=1, data=data, evaluation=evaluation, train=train)).metrics[1]
    assert row["fine_tuned_50_percent_accuracy"] > row["probe_50_percent_accuracy"] + 0.1


@pytest.mark.slow
def test_fine_tuning_that_fails_is_named_and_the_run_ends() -> None:
    evaluation = {"label_shares": [0.5], "fine_tune_epochs": 3}
    row = simulate(digits(Untrained(), rounds=1, evaluation=evaluation, train={"lr": 1e30})).metrics[1]
    assert "fine_tuned_50_percent_accuracy" not in row
    assert row["evaluation_failures"]["server"].startswith("server, round 1, fine-tuning on 50 % of the labels, epoch ")


@final
@dataclass(frozen=True)
class Untrained(Scored):
    """The server's net as it was drawn; nothing is trained."""

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Predictor]:
        net = node.net(heads=()).eval()
        return {"encoder": Embedder(net.features, net)}


class TwoProcesses(InProcessGrid):
    """As a grid with two processes says that it has them."""

    def one_of_each_process(self) -> list[int]:
        return [0, 1]


@pytest.mark.parametrize(("net", "threads"), [("mlp", {"ThreadPoolExecutor"}), (f"{__name__}:sums", {"MainThread"})])
def test_while_clients_processes_are_idle_their_cores_compute_the_servers_features_but_not_of_a_net_that_may_count(
    net: str, threads: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation_round, "cores", lambda: 2)
    used: set[str] = set()
    forward = Net.features

    def noted(self: Net, inputs: Any) -> Tensor:
        used.add(threading.current_thread().name.partition("-")[0])
        return forward(self, inputs)

    data = {"train_limit": 400, "test_limit": 300, "clients": 2, "client_test": 0.0}
    experiment = digits(
        Untrained(), rounds=1, data=data, nets=net, net_options={}, evaluate_clients=0, evaluation={"compared": 0}
    )
    alone = simulate(experiment).metrics[1]
    monkeypatch.setattr(Net, "features", noted)
    assert simulate(experiment, TwoProcesses()).metrics[1]["accuracy"] == alone["accuracy"]
    assert used == threads


class Sums(Encoder):
    """A user's encoder."""

    out_features = 8

    def forward(self, images: Tensor) -> Tensor:
        return images.sum(1).sum(1)


def sums(shape: tuple[int, ...], classes: int) -> Encoder:
    return Sums()


# At clients


@final
@dataclass(frozen=True)
class OwnEncoders(Scored):
    """No encoder is global. Even clients see how bright an image is, odd ones see nothing."""

    blind: bool = True
    twice: bool = False

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Predictor]:
        if not isinstance(node, Client):
            return {}
        function = nothing if self.blind and node.id % 2 else brightness
        return {"own": Embedder(function)} | ({"other": Embedder(function)} if self.twice else {})

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        return number(0)


def nothing(images: Tensor) -> Tensor:
    return torch.zeros(len(images), 2)


def bright(strategy: Any, **changes: Any) -> History:
    data = {"source": two_classes, "clients": 4, "partition": "iid", **changes.pop("data", {})}
    return simulate(Experiment(strategy=strategy, rounds=1, data=data, **changes))


@pytest.mark.slow
def test_an_embedder_without_the_servers_probe_is_probed_where_it_is() -> None:
    """Blind encoders say one class of all: black, of which the test set has three quarters, or white."""
    row = bright(OwnEncoders()).metrics[1]
    right = bright(OwnEncoders(blind=False)).metrics[1]
    keys = ("accuracy", "probe_accuracy", "knn_accuracy", "client_accuracy", "client_knn_accuracy", "client_probe_accuracy")
    assert {key: right[key] for key in keys} == dict.fromkeys(keys, 1.0)
    assert "evaluation_failures" not in row
    assert row["accuracy"] == row["probe_accuracy"] in ((1 + 0.75) / 2, (1 + 0.25) / 2)
    assert row["knn_accuracy"] in ((1 + 0.75) / 2, (1 + 0.25) / 2)


@pytest.mark.slow
def test_a_second_embedder_at_a_client_has_its_accuracy_and_no_scores_beside_it() -> None:
    row = bright(OwnEncoders(blind=False, twice=True)).metrics[1]
    assert (row["client_other_accuracy"], row["client_probe_accuracy"]) == (1.0, 1.0)
    assert [key for key in row if "other" in key] == ["client_other_accuracy"]


@pytest.mark.slow
def test_the_probe_fitted_at_a_client_is_the_one_the_server_would_fit() -> None:
    """By the official protocol, on the labelled images of all clients, by the stream of the round."""
    experiment = digits(SameEncoder(), rounds=1)
    here, there = simulate(experiment), simulate(experiment.replace(strategy=SameEncoder(at_server=True)))
    keys = ("accuracy", "knn_accuracy", "probe_accuracy", "client_accuracy", "client_probe_accuracy")
    assert [here.metrics[1][key] for key in keys] == pytest.approx([there.metrics[1][key] for key in keys])


@final
@dataclass(frozen=True)
class SameEncoder(Scored):
    """The shared initial net, at clients, or at the server too."""

    at_server: bool = False

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Predictor]:
        here = self.at_server or isinstance(node, Client)
        return {"encoder": Embedder(node.net(heads=()).eval().features)} if here else {}


@pytest.mark.slow
def test_a_clients_own_probe_is_fitted_on_its_own_labels() -> None:
    experiment = digits(SameEncoder(), rounds=1)
    federation, server = experiment.federation(), server_of(experiment, round=1)
    net, expected = server.net(heads=()).eval(), []
    for client in range(3):
        train, test = federation.client_train(client), federation.client_test(client)
        fitted, asked = (features_of(net.features, samples, server) for samples in (train, test))
        rng = generator(derive(experiment.seed, "probe", 1, f"client {client}"))
        probe = linear_probe(fitted.values, fitted.labels, classes=10, generator=rng, epochs=1000)  # of one step each
        expected.append(float((probe.logits(asked.values).argmax(1) == asked.labels).float().mean()))
    assert simulate(experiment).metrics[1]["client_probe_accuracy"] == pytest.approx(sum(expected) / 3)


def unequal() -> Source:
    """All images but five belong to client 0."""
    source = two_classes()
    return replace(source, groups=(torch.arange(len(source.train_labels)) < 5).long())


@pytest.mark.slow
def test_clients_without_labels_have_no_probe_of_their_own_and_are_left_out() -> None:
    """Of a tenth of its four training images client 1 labels none; it is scored by the probe on the labels of client 0."""
    data = {"source": unequal, "clients": 2, "partition": "natural_id", "labelled": 0.1}
    federation = Experiment(strategy=OwnEncoders(), data=data).federation()
    assert [len(federation.client_train(client).labelled()) for client in range(2)] == [16, 0]
    row = bright(OwnEncoders(), data=data).metrics[1]
    assert "evaluation_failures" not in row
    assert row["client_probe_accuracy"] == 1.0  # of client 0, which sees; client 1 is blind


def test_numbers_that_only_some_clients_have_are_averaged_over_those() -> None:
    assert means([{"a": 0.5, "b": 1.0}, {"a": 1.0}, {}]) == {"a": 0.75, "b": 1.0}
    assert means([]) == {}
    counts = {"own/global/correct": 3.0, "own/global/samples": 4.0}
    assert probe_accuracies(counts) == {}  # a classifier, or an embedder under the server's probe
    assert probe_accuracies(counts | {"knn/global/correct": 1.0, "knn/global/samples": 4.0}) == {
        "probe_accuracy": 0.75,
        "knn_accuracy": 0.25,
    }


# Pictures


def cut_after(round: int) -> Callable[[dict[str, Any]], None]:
    def on_round(row: dict[str, Any]) -> None:
        if row["round"] == round:
            raise KeyboardInterrupt

    return on_round


@pytest.mark.slow
def test_pictures_lie_in_the_run_directory_and_a_resumed_run_keeps_them(tmp_path: Path) -> None:
    experiment = digits(rounds=3, evaluate_every=2, evaluation={"pictured": 25})
    simulate(experiment, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        simulate(experiment, out=tmp_path / "pieces", on_round=cut_after(2))
    kept = representation_files(tmp_path / "pieces")
    assert list(kept) == [0, 2]
    stale = kept[2].with_name("round-0003.safetensors")
    stale.write_bytes(b"written before the power went, and its round was not")
    simulate(experiment, out=tmp_path / "pieces", resume=True)
    whole, pieces = (representation_files(tmp_path / name) for name in ("whole", "pieces"))
    assert list(whole) == list(pieces) == [0, 2, 3]
    assert [whole[round].read_bytes() for round in whole] == [pieces[round].read_bytes() for round in pieces]
    assert "features" not in (tmp_path / "whole" / "metrics.jsonl").read_text()
    assert (tmp_path / "whole" / "representation.png").exists()


@pytest.mark.slow
def test_a_picture_holds_what_the_headline_encoder_makes_of_the_same_test_images(tmp_path: Path) -> None:
    experiment = digits(rounds=1, evaluation={"pictured": 25})
    simulate(experiment, out=tmp_path / "run")
    files, server = representation_files(tmp_path / "run"), server_of(experiment, round=1)
    net = server.net(heads=("projection",)).eval()
    load(net, load_file(tmp_path / "run" / "nets" / "global.safetensors"))
    samples = server.federation.test.subset(drawn_from_test(server, 25))
    expected, table = features_of(net.features, samples, server), read_representations(files[1])
    torch.testing.assert_close(torch.from_numpy(table.features).float(), expected.values)
    assert table.labels.tolist() == expected.labels.tolist() == read_representations(files[0]).labels.tolist()
    assert table.classes == tuple("0123456789")


# Settings


@pytest.mark.parametrize(("samples", "epochs"), [(30, 40), (130, 14), (700, 4)])  # of 1, 3 and 11 batches
def test_a_probe_on_few_labels_takes_ten_steps_an_epoch_at_least(
    samples: int, epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    monkeypatch.setattr(encoders, "linear_probe", lambda *_, epochs, **__: taken.append(epochs))
    features = encoders.Features(torch.zeros(samples, 2), torch.zeros(samples, dtype=torch.int64))
    node = server_of(digits(evaluation={"probe_epochs": 4}), round=1)
    encoders.fit_small_probe(features, node)
    encoders.fit_probe(features, node)
    assert taken == [epochs, 4]


def test_settings_come_back_from_flat_config_and_from_toml(read: Callable[..., Experiment]) -> None:
    experiment = digits(evaluation={"label_shares": [0.05], "fine_tune_epochs": 3, "pictured": 10, "compared": 0})
    flat = experiment.to_flat()
    assert (flat["evaluation.label_shares"], flat["evaluation.compared"]) == ("0.05,", 0)
    assert Experiment.from_flat(flat) == experiment == read(experiment.to_toml())
    for shares in ((), (0.01, 0.1), (0.5,)):
        changed = digits(evaluation={"label_shares": shares})
        assert Experiment.from_flat(changed.to_flat()).evaluation.label_shares == shares
    assert read('strategy = "fedx"', **{"evaluation.label_shares": "0.2"}).evaluation.label_shares == (0.2,)
    assert Experiment().evaluation.model_dump() == {
        "label_shares": (0.01, 0.1),
        "probe_epochs": 100,
        "fine_tune_epochs": 0,
        "pictured": 0,
        "compared": 256,
    }


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ("label_shares = [0.1, 0]", r"evaluation\.label_shares\.1: input should be greater than 0, got 0 \(mine\.toml:2\)"),
        ("label_shares = [1.5]", r"evaluation\.label_shares\.0: input should be less than or equal to 1, got 1\.5"),
        ("label_shares = [0.1, 0.1]", r"evaluation\.label_shares: \[0\.1, 0\.1\] names a share twice: name each once"),
        ('label_shares = "few"', r"evaluation\.label_shares: input should be a valid tuple, got 'few'"),
        (
            "compared = 1",
            r"evaluation\.compared: one sample is compared to none: set it to 0, or to 2 or more \(mine\.toml:2\)",
        ),
        ("pictured = -1", r"evaluation\.pictured: input should be greater than or equal to 0, got -1"),
        ("fine_tune_epochs = 0.5", r"evaluation\.fine_tune_epochs: input should be a valid integer"),
        ("picture = 5", r"unknown key 'evaluation\.picture': did you mean 'pictured'\? \(mine\.toml:2\)"),
    ],
)
def test_a_bad_setting_is_one_line(read: Callable[..., Experiment], setting: str, error: str) -> None:
    with pytest.raises(InputError, match=f"^{error}") as caught:
        read(f"[evaluation]\n{setting}")
    assert "\n" not in str(caught.value)


def test_text_that_is_no_list_of_numbers_is_one_line_in_a_flat_config_too() -> None:
    with pytest.raises(InputError, match=r"evaluation\.label_shares: 'few,fewer' is no list of numbers"):
        Experiment.from_flat({"evaluation.label_shares": "few,fewer"})
