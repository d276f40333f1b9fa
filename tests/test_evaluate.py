"""Accuracy by hand: global, by class, per client, worst tenth, the probe at clients; which rounds and clients are asked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import pytest
import torch
from contract import Numbers, number
from torch import Tensor

from fedkd import Classifier, Client, Embedder, Experiment, History, Knowledge, Node, Predictor, Server, simulate
from fedkd.data import Source
from fedkd.evaluate import score
from fedkd.row import headline, mean_metrics, worst_tenth

#: What every row of metrics.jsonl has, before training too.
ALWAYS = {"round", "seconds", "bytes_up", "bytes_down", "wire_bytes_up", "wire_bytes_down", "evaluation_bytes"}
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
    assert headline(metrics, "own") == 0.25
    assert headline(metrics, "global") is None
    assert headline({"a/own/correct": 0.0, "a/own/samples": 0.0}, "own") is None  # a client without test samples


def test_reported_numbers_are_weighted_means_over_those_who_report_them() -> None:
    uploads = {
        0: Knowledge(weight=1, metrics={"loss": 4.0, "seconds": 9.0}),
        1: Knowledge(weight=3, metrics={"loss": 8.0, "kl": 2.0}),
    }
    assert mean_metrics(uploads) == {"loss": 7.0, "kl": 2.0}


def two_classes() -> Source:
    """Black images of class 0, white ones of class 1; three quarters of the test images are black."""
    labels, test_labels = torch.arange(200) % 2, torch.tensor([0, 0, 0, 1] * 10)
    images, test_images = (
        (255 * y).to(torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).clone() for y in (labels, test_labels)
    )
    return Source("black and white", images, labels, test_images, test_labels, ("black", "white"))


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
    }  # round 0 is before training
    assert History([{"round": 0, "accuracy": 0.1}]).summary() == {}
