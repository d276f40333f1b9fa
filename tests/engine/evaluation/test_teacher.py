"""How good a teacher is, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from fedkd.engine.evaluation.teacher import (
    accuracy,
    agreement,
    agreement_by_class,
    as_probabilities,
    calibration_error,
    entropy,
    mass_by_class,
)


def test_answers_of_every_kind_become_distributions() -> None:
    assert as_probabilities(torch.tensor([2, 0], dtype=torch.uint8), "labels", 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert as_probabilities(torch.tensor([[0.0, 3.0]]).log1p(), "logits", 2).tolist() == [pytest.approx([0.2, 0.8])]
    assert as_probabilities(torch.tensor([[-0.001, 0.5]]), "probabilities", 2).tolist() == [[0.0, 1.0]]


def test_samples_without_a_label_do_not_count() -> None:
    assert accuracy(torch.tensor([0, 1, 1]), torch.tensor([0, 0, -1])) == 0.5
    assert math.isnan(accuracy(torch.tensor([0]), torch.tensor([-1])))
    assert math.isnan(calibration_error(torch.tensor([[1.0, 0.0]]), torch.tensor([-1])))
    assert calibration_error(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([0, -1])) == 0


def test_one_client_agrees_with_nobody_and_a_sure_teacher_has_no_entropy() -> None:
    assert math.isnan(agreement(torch.tensor([[1, 0]]), 1))
    assert entropy(torch.tensor([[1.0, 0.0], [0.5, 0.5]])) == pytest.approx(math.log(2) / 2)


def test_a_class_is_carried_by_those_who_believed_in_it() -> None:
    """Two samples that the teacher takes for class 0, one for class 1; none for class 2."""
    targets = torch.tensor([0, 0, 1])
    certain, doubtful = torch.eye(3)[targets], torch.full((3, 3), 1 / 3)
    assert mass_by_class(certain, targets).tolist() == [2, 1, 0]
    assert mass_by_class(doubtful, targets).tolist() == pytest.approx([2 / 3, 1 / 3, 0])
    followed = agreement_by_class(torch.tensor([0, 2, 1]), targets, 3)
    assert followed[:2].tolist() == [0.5, 1.0] and math.isnan(followed[2])
