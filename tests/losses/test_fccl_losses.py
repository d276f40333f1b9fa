"""The losses of FCCL and FCCL+: by hand, what changes nothing, one client alone, samples and classes that say nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from fedkd.losses import fccl_loss, instance_similarities, instance_similarity_loss

B, C, D = 6, 4, 5


def rows(seed: int, *shape: int) -> Tensor:
    return torch.randn(*(shape or (B, C)), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.recomputed("fccl_loss", by="hand")
def test_fccl_loss_by_hand() -> None:
    """Two classes of three samples: both columns go 0, 1, 2, so z = (-1, 0, 1) and every entry of M is 2/3."""
    logits = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    assert fccl_loss(logits, logits).item() == pytest.approx(2 / 9 + 0.0051 * 2 * 25 / 9)
    assert fccl_loss(logits, -logits, off_diagonal_weight=1.0).item() == pytest.approx(2 * 25 / 9 + 2 / 9)


def test_fccl_loss_pulls_the_off_diagonal_to_minus_one_and_not_to_zero() -> None:
    """Two classes that oppose each other lose less than two that have nothing to do with each other."""
    up = torch.tensor([-1.0, -1.0, 1.0, 1.0])
    opposed, apart = torch.stack([up, -up], 1), torch.stack([up, torch.tensor([1.0, -1.0, -1.0, 1.0])], 1)
    assert fccl_loss(opposed, opposed).item() < fccl_loss(apart, apart).item()


def test_fccl_loss_sees_no_scale_and_no_offset_of_a_class() -> None:
    student, teacher = rows(0), rows(1)
    scale, offset = torch.tensor([0.1, 2.0, 30.0, 1.0]).double(), torch.tensor([5.0, -3.0, 0.0, 100.0]).double()
    for pair in ((student * scale + offset, teacher), (student, teacher * scale + offset)):
        torch.testing.assert_close(fccl_loss(*pair), fccl_loss(student, teacher))
    assert fccl_loss(student * -scale, teacher).item() != pytest.approx(fccl_loss(student, teacher).item())


def test_fccl_loss_of_one_client_alone_is_never_zero() -> None:
    """M is a correlation matrix times (B - 1) / B: each diagonal term is 1 / B^2, and classes cannot all oppose each other."""
    alone = rows(0)
    assert fccl_loss(alone, alone, off_diagonal_weight=0.0).item() == pytest.approx(C / B**2)
    correlations = torch.corrcoef(alone.T) * (B - 1) / B
    beside = (correlations[~torch.eye(C, dtype=torch.bool)] + 1).square().sum()
    assert fccl_loss(alone, alone).item() == pytest.approx(C / B**2 + 0.0051 * beside.item())


def test_fccl_loss_of_a_class_that_is_the_same_everywhere_is_a_number_with_a_gradient() -> None:
    student, teacher = rows(0), rows(1)
    student[:, 2], teacher[:, 1] = 7.0, 0.0
    student.requires_grad_()
    loss = fccl_loss(student, teacher)
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_instance_similarity_loss_is_zero_where_the_cosines_agree() -> None:
    student = rows(0, B, D)
    assert instance_similarity_loss(3 * student, instance_similarities(student)).item() == pytest.approx(0, abs=1e-12)
    assert instance_similarity_loss(student, -instance_similarities(student)).item() > 1


@pytest.mark.recomputed("instance_similarity_loss", "instance_similarities", by="formula")
def test_instance_similarity_loss_is_the_divergence_of_rows_without_the_sample_itself() -> None:
    student, teacher = rows(0, B, D), rows(1, B, D + 2)
    expected = 0.0
    for b in range(B):
        others = [j for j in range(B) if j != b]
        cosine = torch.nn.functional.cosine_similarity
        p, r = ((torch.stack([cosine(x[b], x[j], 0) for j in others]) / 0.5).softmax(0) for x in (teacher, student))
        expected += float((p * (p / r).log()).sum()) / B
    found = instance_similarity_loss(student, instance_similarities(teacher), temperature=0.5)
    assert found.item() == pytest.approx(expected)


def test_instance_similarity_loss_of_two_samples_or_one_teaches_nothing() -> None:
    for samples in (1, 2):
        student = rows(0, samples, D).requires_grad_()
        loss = instance_similarity_loss(student, torch.zeros(samples, samples - 1))
        loss.backward()
        assert loss.item() == 0
        assert student.grad is not None
        assert not student.grad.any()


def test_a_mean_of_cosines_of_nets_of_different_widths_is_a_teacher() -> None:
    mean = (instance_similarities(rows(1, B, 3)) + instance_similarities(rows(2, B, 7))) / 2
    assert math.isfinite(instance_similarity_loss(rows(0, B, D), mean).item())


def test_gradcheck() -> None:
    assert gradcheck(lambda x: fccl_loss(x, rows(1)), [rows(0).requires_grad_()])
    teacher = instance_similarities(rows(1, B, D))
    assert gradcheck(lambda x: instance_similarity_loss(x, teacher, temperature=0.5), [rows(0, B, D).requires_grad_()])


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"fccl_loss: teacher is \(1, 4\); expected \(6, 4\)"):
        fccl_loss(rows(0), rows(1)[:1])
    with pytest.raises(ValueError, match="a batch of one sample has no correlations"):
        fccl_loss(rows(0)[:1], rows(1)[:1])
    with pytest.raises(ValueError, match=r"instance_similarity_loss: teacher is \(6, 6\); expected \(6, 5\)"):
        instance_similarity_loss(rows(0, B, D), torch.zeros(B, B))
