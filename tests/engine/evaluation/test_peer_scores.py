"""Peers compared by hand: their accuracies, their ensemble, how far they agree."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import kl_div

from fedkd.engine.evaluation.peers import SAMPLES, agreement, compared, divergence, ensemble_accuracy, peer_accuracies

#: Three peers, two samples, two classes. They answer 0 1, 0 0 and 1 0.
LOGITS = torch.tensor([[[2.0, 0.0], [0.0, 2.0]], [[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]])


def test_each_peer_has_its_accuracy() -> None:
    assert peer_accuracies(LOGITS, torch.tensor([0, 1])) == [1.0, 0.5, 0.0]


def test_the_ensemble_is_the_mean_of_probabilities_and_no_vote() -> None:
    """One is sure of class 0, two lean to class 1: 0.9 + 0.4 + 0.4 against 0.1 + 0.6 + 0.6."""
    logits = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.4, 0.6]]).log()[:, None]  # (3, 1, 2)
    assert ensemble_accuracy(logits, torch.tensor([0])) == 1.0


def test_agreement_is_the_mean_over_pairs() -> None:
    """Peers 0 and 1 agree on the first sample, 1 and 2 on the second, 0 and 2 on none."""
    assert agreement(LOGITS) == pytest.approx((0.5 + 0.5 + 0) / 3)
    assert agreement(LOGITS[[0, 0]]) == 1.0


def test_divergence_takes_both_orders_of_a_pair() -> None:
    half, quarter = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    there, back = 0.5 * math.log(2) + 0.5 * math.log(2 / 3), 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert divergence(torch.stack([half, quarter])[:, None]) == pytest.approx((there + back) / 2)
    assert divergence(torch.stack([half, half + 7])[:, None]) == 0.0  # the same probabilities


def test_any_number_of_peers_and_samples_is_the_mean_over_their_pairs() -> None:
    logits = torch.randn(4, SAMPLES + 100, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(SAMPLES + 100) % 5
    log_p, pairs = logits.double().log_softmax(-1), [(i, j) for i in range(4) for j in range(4) if i != j]
    kls = [float(kl_div(log_p[j], log_p[i], log_target=True, reduction="batchmean")) for i, j in pairs]
    same = [float((logits[i].argmax(-1) == logits[j].argmax(-1)).double().mean()) for i, j in pairs]
    mixture = log_p.exp().mean(0).argmax(-1)
    found = compared(logits, labels)
    assert found["peer_divergence"] == pytest.approx(sum(kls) / len(kls))
    assert found["agreement"] == pytest.approx(sum(same) / len(same))
    assert found["ensemble_accuracy"] == pytest.approx(float((mixture == labels).double().mean()))
    turned = compared(logits.flip(0), labels)  # the order of peers is of no account
    assert {key: turned[key] for key in ("agreement", "ensemble_accuracy")} == {
        key: found[key] for key in ("agreement", "ensemble_accuracy")
    }


def test_samples_without_a_label_do_not_count_at_all() -> None:
    found = compared(LOGITS, torch.tensor([-1, 1]))
    assert found == compared(LOGITS[:, 1:], torch.tensor([1]))
    assert (found["peer_accuracies"], found["mean_peer_accuracy"], found["best_peer_accuracy"]) == (
        [1.0, 0.0, 0.0],
        pytest.approx(1 / 3),
        1.0,
    )
    nothing = compared(LOGITS, torch.tensor([-1, -1]))
    assert all(math.isnan(value) for key, value in nothing.items() if key != "peer_accuracies")


def test_one_peer_agrees_with_nobody() -> None:
    found = compared(LOGITS[:1], torch.tensor([0, 0]))
    assert found == {
        "peer_accuracies": [0.5],
        "mean_peer_accuracy": 0.5,
        "best_peer_accuracy": 0.5,
        "ensemble_accuracy": 0.5,
    }
