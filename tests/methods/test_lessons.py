"""Students at the server: something must teach the classifier, be it teachers or labels."""

from __future__ import annotations

from typing import Any

import pytest

from fedkd import Experiment, InputError

#: Of each strategy the key that is named, and weights with which teachers say nothing to the classifier.
SILENT: dict[str, tuple[str, dict[str, Any]]] = {
    "amtml": ("balance", {"balance": 0.0}),
    "dgkd": ("balance", {"balance": 0.0, "assistants": ("mlp",)}),
    "feed": ("logit_weight", {"logit_weight": 0.0}),
    "multi_teacher": ("weight", {"weight": 0.0}),
    "rl_kd": ("weight", {"weight": 0.0}),
    "takd": ("balance", {"balance": 0.0, "assistants": ("mlp",)}),
    "you2017": ("weight", {"weight": 0.0}),
}


def experiment_with(name: str, data: dict[str, Any], **weights: float) -> Experiment:
    strategy = {"name": name, **SILENT[name][1], **weights}
    return Experiment(strategy=strategy, nets="cnn", rounds=2, data={"source": "digits", "clients": 3, **data})


@pytest.mark.parametrize("name", SILENT)
def test_without_teachers_and_labels_nothing_teaches(name: str) -> None:
    key, _ = SILENT[name]
    said = f"strategy.{key}: labels alone would teach the student's classifier, and there are none: "
    with pytest.raises(InputError, match=said):
        experiment_with(name, {"public": 100})


@pytest.mark.parametrize("name", SILENT)
def test_labels_alone_teach_where_there_are_some(name: str) -> None:
    labelled = experiment_with(name, {"public": 100, "public_labels": True})
    assert getattr(labelled.strategy, SILENT[name][0]) == 0


@pytest.mark.parametrize("name", ["feed", "multi_teacher", "rl_kd", "you2017"])
def test_without_teachers_labels_may_not_weigh_nothing(name: str) -> None:
    key, _ = SILENT[name]
    said = f"strategy.{key}: labels alone would teach the student's classifier, and their weight is 0: raise one"
    with pytest.raises(InputError, match=said):
        experiment_with(name, {"public": 100, "public_labels": True}, label_weight=0.0)


def test_a_loss_that_compares_features_alone_teaches_no_classifier() -> None:
    said = (
        r"strategy.loss: labels alone would teach the student's classifier, and there are none: set data.public_labels = true"
    )
    with pytest.raises(InputError, match=said):
        Experiment(strategy={"name": "multi_teacher", "loss": "hint"}, nets="cnn", rounds=2, data={"public": 100})
