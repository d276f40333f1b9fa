"""Accuracy by hand: global, by class, per client, worst tenth, the probe at clients; which rounds and clients are asked."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import pytest
import torch
from contract import Numbers, number
from torch import Tensor

from fedkd import (
    Classifier,
    Client,
    Embedder,
    Experiment,
    History,
    Knowledge,
    Needs,
    Node,
    Peers,
    Predictor,
    Server,
    Strategy,
    TensorSpec,
    classifier,
    fit,
    simulate,
)
from fedkd.data import Source
from fedkd.engine.answers import headline_accuracy, worst_tenth
from fedkd.engine.evaluation.evaluate import score
from fedkd.engine.round_metrics import mean_metrics
from fedkd.grids import JobGrid
from fedkd.losses import cross_entropy_loss
from fedkd.results.history import OF_ENGINE, TIMES

#: What every row of metrics.jsonl has, before training too.
ALWAYS = {"round", "seconds", "cpu_seconds", "bytes_up", "bytes_down", "wire_bytes_up", "wire_bytes_down", "evaluation_bytes"}
ALWAYS |= {"clients_ok", "clients_late", "clients_failed"}
EVALUATED = {"accuracy", "client_accuracy", "worst_tenth_accuracy"}


def test_right_answers_are_counted_by_class_and_hidden_labels_do_not_count() -> None:
    answers, labels = torch.tensor([0, 1, 1, 2, 0]), torch.tensor([0, 1, 0, -1, -1])
    scored = score(answers, labels, classes=4)
    assert scored.correct.tolist() == [1, 1, 0, 0]
    assert scored.samples.tolist() == [2, 1, 0, 0]
    assert scored.accuracy == pytest.approx(2 / 3)
    assert math.isnan(score(answers, torch.full((5,), -1), classes=4).accuracy)


@pytest.mark.parametrize(
    ("accuracies", "worst"),
    [([0.5], 0.5), ([0.3, 0.1, 0.2], 0.1), ([i / 10 for i in range(10)], 0.0), ([i / 10 for i in range(11)], 0.05)],
)
def test_the_worst_tenth_is_at_least_one_client(accuracies: list[float], worst: float) -> None:
    assert worst_tenth(accuracies) == pytest.approx(worst)


def test_the_headline_is_the_first_predictor_that_answered() -> None:
    metrics = {"a/own/correct": 1.0, "a/own/samples": 4.0, "b/own/correct": 4.0, "b/own/samples": 4.0}
    assert headline_accuracy(metrics, "own") == 0.25
    assert headline_accuracy(metrics, "global") is None
    assert headline_accuracy({"a/own/correct": 0.0, "a/own/samples": 0.0}, "own") is None  # a client without test samples


def test_reported_numbers_are_weighted_means_over_those_who_report_them() -> None:
    uploads = {
        0: Knowledge(weight=1, metrics={"loss": 4.0, "seconds": 9.0}),
        1: Knowledge(weight=3, metrics={"loss": 8.0, "kl": 2.0}),
    }
    assert mean_metrics(uploads) == {"loss": 7.0, "kl": 2.0}


def two_classes() -> Source:
    """Black images of class 0, white ones of class 1; three quarters of the test images are black."""
    labels, test_labels = torch.arange(200) % 2, torch.tensor([0, 0, 0, 1] * 10)
    images, test_inputs = (
        (255 * y).to(torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).clone() for y in (labels, test_labels)
    )
    return Source("black and white", images, labels, test_inputs, test_labels, ("black", "white"))


def brightness(images: Tensor) -> Tensor:
    """Features (B, 2) that separate the classes."""
    light = images.mean(dim=(1, 2, 3))
    return torch.stack([light, 1 - light], dim=1)


def always_black(images: Tensor) -> Tensor:
    return torch.tensor([1.0, 0.0]).expand(len(images), 2)


@dataclass(frozen=True)
class Scored(Numbers):
    """Trains nothing; subclasses say what is evaluated."""

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        return number(client.id)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        return number(0)


@final
@dataclass(frozen=True)
class Global(Scored):
    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Predictor]:
        return {"black": Classifier(always_black), "right": Classifier(brightness_logits)}


def brightness_logits(images: Tensor) -> Tensor:
    return brightness(images).flip(1)


@final
@dataclass(frozen=True)
class OwnNets(Scored):
    """No net is global: even clients are always right, odd ones always say black."""

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Predictor]:
        if not isinstance(node, Client):
            return {}
        return {"own": Classifier(always_black if node.id % 2 else brightness_logits)}


@final
@dataclass(frozen=True)
class Unsupervised(Scored):
    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Predictor]:
        return {"encoder": Embedder(brightness)}


def run(strategy: Scored, *, rounds: int = 1, clients: int = 4, **changes: Any) -> History:
    data = {"source": two_classes, "clients": clients, "partition": "iid"}
    return simulate(Experiment(strategy=strategy, rounds=rounds, data=data, **changes))


def test_the_first_predictor_is_the_headline_and_each_has_its_accuracy() -> None:
    row = run(Global()).metrics[0]
    assert (row["accuracy"], row["black_accuracy"]) == (0.75, 0.75)
    assert row["right_accuracy"] == 1.0
    assert row["class_accuracy"] == [1.0, 0.0]


def test_a_client_is_scored_on_its_own_test_samples() -> None:
    """Always black: a client's accuracy is the share of black images among its own."""
    experiment = Experiment(strategy=Global(), rounds=1, data={"source": two_classes, "clients": 4, "partition": "iid"})
    counts = [experiment.federation().client_test(client).label_counts() for client in range(4)]
    expected = [float(count[0] / count.sum()) for count in counts]
    history = simulate(experiment)
    assert [row["accuracy"] for row in history.clients if row["round"] == 0] == pytest.approx(expected)
    assert history.metrics[0]["client_accuracy"] == pytest.approx(sum(expected) / 4)
    assert history.metrics[0]["worst_tenth_accuracy"] == pytest.approx(min(expected))


def test_without_a_global_net_accuracy_is_the_clients_mean_on_the_global_test_set() -> None:
    row = run(OwnNets()).metrics[1]
    assert row["accuracy"] == (1 + 0.75 + 1 + 0.75) / 4


@pytest.mark.slow
def test_features_are_judged_by_a_linear_probe_and_by_neighbours_also_at_clients() -> None:
    row = run(Unsupervised()).metrics[1]
    assert row["accuracy"] == row["probe_accuracy"] == row["encoder_accuracy"]
    keys = ("probe_accuracy", "knn_accuracy", "client_accuracy", "worst_tenth_accuracy")
    assert {key: row[key] for key in keys} == dict.fromkeys(keys, 1.0)
    assert row["class_accuracy"] == [1.0, 1.0]


def test_every_row_has_what_the_log_promises() -> None:
    """Rows of rounds that are not evaluated have no accuracy; the last round always is."""
    rows = run(Global(), rounds=4, evaluate_every=3).metrics
    assert [row["round"] for row in rows] == [0, 1, 2, 3, 4]
    assert all(row.keys() >= ALWAYS for row in rows)
    assert [row["round"] for row in rows if row.keys() >= EVALUATED] == [0, 3, 4]
    assert all(not row.keys() & EVALUATED and row["evaluation_bytes"] == 0 for row in rows[1:3])
    assert [row["clients_ok"] for row in rows] == [0, 4, 4, 4, 4]
    assert all(row["bytes_up"] == 4 * 4 for row in rows[1:])  # four clients, one float each
    assert rows[1]["bytes_down"] == 0 and rows[2]["bytes_down"] == 4 * 4  # the first broadcast is empty


def test_a_supervised_row_has_its_loss_by_parts() -> None:
    settings = {"rounds": 1, "nets": "mlp", "data": {"source": two_classes, "clients": 2, "partition": "iid"}}
    row = simulate(Experiment(strategy="fedprox", **settings)).metrics[1]
    assert row["loss"] == pytest.approx(row["cross_entropy"] + row["proximal"])
    assert row.keys() >= ALWAYS | EVALUATED


def test_at_most_so_many_clients_are_evaluated_and_the_same_each_round() -> None:
    history = run(Global(), rounds=2, clients=8, evaluate_clients=3)
    asked = [{row["client"] for row in history.clients if row["round"] == round and "accuracy" in row} for round in (0, 1, 2)]
    assert len(asked[0]) == 3
    assert asked[0] == asked[1] == asked[2]
    none = run(Global(), evaluate_clients=0).metrics[1]
    assert "client_accuracy" not in none and none["accuracy"] == 0.75


def test_a_predictor_that_raises_at_a_client_is_reported_and_the_run_goes_on() -> None:
    @dataclass(frozen=True)
    class Broken(Scored):
        def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Predictor]:
            if isinstance(node, Client) and node.id == 1:
                raise ValueError("no such head")
            return {"black": Classifier(always_black)}

    row = run(Broken()).metrics[1]
    assert row["evaluation_failures"] == {"1": "ValueError: no such head"}
    assert row["clients_ok"] == 4


def test_the_summary_is_last_best_and_mean_of_the_last_five() -> None:
    rows = [{"round": round, "accuracy": accuracy} for round, accuracy in enumerate([0.9, 0.1, 0.8, 0.2, 0.3, 0.4, 0.5])]
    summary = History([*rows, {"round": 7}]).summary()
    assert summary == {
        "last": 0.5,
        "last_round": 6,
        "best": 0.8,
        "best_round": 2,
        "mean_last_five": pytest.approx(0.44),
        "averaged": 5,
    }  # round 0 is before training
    assert History([{"round": 0, "accuracy": 0.1}]).summary() == {}
    three = History(rows[:4]).summary()
    assert (three["mean_last_five"], three["averaged"]) == (pytest.approx((0.1 + 0.8 + 0.2) / 3), 3)


# Peers

SEEN: list[int] = []


def black_and_right(images: Tensor) -> Tensor:
    """Two peers (2, B, 2): one always says black, one is right and surer of it."""
    SEEN.append(len(images))
    return torch.stack([always_black(images), 3 * brightness_logits(images)])


@final
@dataclass(frozen=True)
class Branches(Scored):
    """Branches of a global net: everywhere, or only at clients."""

    headline: int = -1
    at_server: bool = True

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Predictor]:
        if isinstance(node, Server) and not self.at_server:
            return {}
        return {"branches": Peers(black_and_right, headline=None if self.headline < 0 else self.headline)}


def test_peers_at_the_server_are_compared_in_one_pass_over_the_test_set() -> None:
    SEEN.clear()
    row = run(Branches(), evaluate_clients=0).metrics[0]
    assert sum(SEEN) == 2 * 40  # two rounds, forty test images
    assert (row["peer_accuracies"], row["mean_peer_accuracy"], row["best_peer_accuracy"]) == ([0.75, 1.0], 0.875, 1.0)
    assert (row["accuracy"], row["branches_accuracy"]) == (0.875, 0.875)
    assert row["class_accuracy"] == [1.0, 0.5]
    assert (row["ensemble_accuracy"], row["agreement"]) == (1.0, 0.75)
    assert row["peer_divergence"] > 0
    assert "peer_clients" not in row


@pytest.mark.parametrize(("headline", "accuracy"), [(0, 0.75), (1, 1.0)])
def test_peers_may_have_a_headline(headline: int, accuracy: float) -> None:
    row = run(Branches(headline=headline)).metrics[1]
    assert row["accuracy"] == row["branches_accuracy"] == accuracy
    assert row["mean_peer_accuracy"] == 0.875
    assert row["client_accuracy"] == 1.0 if headline else row["client_accuracy"] < 1.0


def test_peers_at_clients_are_scored_on_both_splits() -> None:
    """A client's own test samples, of which only some are black; without a net at the server, the global ones too."""
    history = run(Branches(at_server=False))
    experiment = Experiment(strategy=Branches(), rounds=1, data={"source": two_classes, "clients": 4, "partition": "iid"})
    counts = [experiment.federation().client_test(client).label_counts() for client in range(4)]
    expected = [(1 + float(count[0] / count.sum())) / 2 for count in counts]
    assert [row["accuracy"] for row in history.clients if row["round"] == 0] == pytest.approx(expected)
    assert history.metrics[1]["accuracy"] == 0.875
    assert "peer_accuracies" not in history.metrics[1]  # a strategy that does not compare its clients


ANSWERS: dict[str, Callable[[Tensor], Tensor]] = {
    "right": lambda images: 3 * brightness_logits(images),
    "not finite": lambda images: brightness_logits(images) * torch.nan,
    "of three classes": lambda images: torch.zeros(len(images), 3),
}


@final
@dataclass(frozen=True)
class Compared(Scored):
    """No net is global: odd clients always say black, even ones are right; client 2 answers as it is told to."""

    second: str = "right"
    compares_clients: ClassVar[bool] = True

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Predictor]:
        if not isinstance(node, Client):
            return {}
        function = always_black if node.id % 2 else ANSWERS[self.second if node.id == 2 else "right"]
        return {"own": Classifier(counted(function)), "other": Classifier(always_black)}


def counted(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def counting(images: Tensor) -> Tensor:
        SEEN.append(len(images))
        return function(images)

    return counting


def test_clients_are_compared_by_their_headline_on_the_global_test_set() -> None:
    SEEN.clear()
    history, plain = run(Compared()), run(OwnNets())
    row = history.metrics[1]
    assert row["peer_clients"] == [0, 1, 2, 3]
    assert row["peer_accuracies"] == [1.0, 0.75, 1.0, 0.75]
    assert row["accuracy"] == row["mean_peer_accuracy"] == plain.metrics[1]["accuracy"] == 0.875
    assert row["agreement"] == pytest.approx((2 * 1 + 4 * 0.75) / 6)
    assert row["ensemble_accuracy"] == row["best_peer_accuracy"] == 1.0
    own = [len(Experiment(strategy=Compared(), data=DATA).federation().client_test(client)) for client in range(4)]
    assert sum(SEEN) == 2 * (4 * 40 + sum(own))  # two rounds: each net once over the global and once over its own samples
    more = row["evaluation_bytes"] - plain.metrics[1]["evaluation_bytes"]
    assert more > 4 * (4 * 40 * 2)  # four clients, forty samples, two logits of four bytes


DATA = {"source": two_classes, "clients": 4, "partition": "iid"}


@pytest.mark.parametrize(
    ("second", "why"), [("not finite", "holds a value that is not finite"), ("of three classes", r"has shape \(40, 3\)")]
)
def test_a_client_with_bad_logits_is_no_peer_and_the_others_stay(second: str, why: str) -> None:
    row = run(Compared(second)).metrics[1]
    assert row["peer_clients"] == [0, 1, 3]
    assert row["peer_accuracies"] == [1.0, 0.75, 0.75]
    assert row["accuracy"] == pytest.approx(2.5 / 3)
    assert row["evaluation_failures"].keys() == {"2"}
    assert re.search(f"its evaluation is rejected: peer_logits {why}", row["evaluation_failures"]["2"])


def test_only_clients_that_are_evaluated_are_compared() -> None:
    rows = run(Compared(), evaluate_clients=1).metrics
    assert rows[0]["peer_clients"] == rows[1]["peer_clients"] and len(rows[0]["peer_clients"]) == 1
    assert "agreement" not in rows[1]


@final
@dataclass(frozen=True)
class Together(Strategy):
    """Each client trains its own net and tells nobody anything; nets are compared."""

    paper: ClassVar[str] = "none (test)"
    sends: ClassVar[str] = "nothing"
    needs: ClassVar[Needs] = Needs(labels=True)
    compares_clients: ClassVar[bool] = True

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        net, data = client.net(init="own", keep=True), client.train.labelled()
        losses = fit(net, data, lambda net, batch: {"cross_entropy": cross_entropy_loss(net(batch.inputs), batch.labels)})
        return Knowledge(weight=len(data), metrics=losses)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        return Knowledge()

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Predictor]:
        return {"main": classifier(node.net(init="own", keep=True))} if isinstance(node, Client) else {}

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        return {}


def digits(rounds: int) -> Experiment:
    data = {"clients": 3, "partition": "iid", "train_limit": 400}
    train = {"lr": 0.1, "batch_size": 32, "epochs": 2}
    return Experiment(strategy=Together(), rounds=rounds, nets={"mlp": 0.7, "cnn": 0.3}, data=data, train=train)


@pytest.mark.slow
def test_digits_peers_come_to_agree_as_they_learn() -> None:
    history = simulate(digits(6))
    before, after = history.metrics[0], history.metrics[-1]
    assert after["accuracy"] == pytest.approx(after["mean_peer_accuracy"]) and after["accuracy"] > 0.75
    assert after["best_peer_accuracy"] >= after["accuracy"]
    assert after["ensemble_accuracy"] > after["mean_peer_accuracy"]
    assert after["agreement"] > before["agreement"] + 0.3


@pytest.mark.slow
def test_peers_are_compared_alike_on_every_grid(make_grid: Callable[[], JobGrid]) -> None:
    expected, found = simulate(digits(1)), simulate(digits(1), make_grid())
    assert without_times(found) == without_times(expected)
    assert len(found.metrics[1]["peer_accuracies"]) == 3


def without_times(history: History) -> list[dict[str, Any]]:
    rows = (*history.metrics, *history.clients)
    return [{k: v for k, v in row.items() if k not in (*TIMES, *OF_ENGINE)} for row in rows]
