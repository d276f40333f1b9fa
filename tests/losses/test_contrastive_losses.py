"""Losses that tell samples apart, against values by hand, the definitions in loops, and their invariances."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from fedkd.base.errors import InputError
from fedkd.losses import icl_loss, nt_xent_loss, seed_loss, soft_icl_loss, soft_similarity_loss, supcon_loss
from fedkd.losses.off_diagonal import off_diagonal

B, D = 6, 4
LABELS = torch.tensor([0, 1, 0, 2, 1, 0])  # sample 3 is the only one of its class


def rows(seed: int, count: int = B) -> Tensor:
    return torch.randn(count, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cosine(x: Tensor, y: Tensor) -> float:
    return float(x @ y / (x.norm() * y.norm()))


def softmax(logits: list[float]) -> list[float]:
    total = sum(math.exp(logit) for logit in logits)
    return [math.exp(logit) / total for logit in logits]


def kl(target: list[float], learner: list[float]) -> float:
    return sum(p * math.log(p / q) for p, q in zip(target, learner, strict=True))


def by_label(anchors: Tensor, candidates: Tensor, labels: list[int], temperature: float) -> float:
    """Mean over anchors with a positive, of the mean over positives, of minus log softmax over the others."""
    losses = []
    for i, anchor in enumerate(anchors):
        others = [j for j in range(len(anchors)) if j != i]
        probability = dict(zip(others, softmax([cosine(anchor, candidates[j]) / temperature for j in others]), strict=True))
        positives = [j for j in others if labels[j] == labels[i]]
        if positives:
            losses.append(sum(-math.log(probability[j]) for j in positives) / len(positives))
    return sum(losses) / len(losses)


@pytest.mark.recomputed("supcon_loss", by="formula")
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_supcon_equals_the_definition(temperature: float) -> None:
    expected = by_label(rows(0), rows(0), LABELS.tolist(), temperature)
    assert supcon_loss(rows(0), LABELS, temperature=temperature).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.recomputed("supcon_loss", by="hand")
def test_supcon_of_samples_that_are_all_alike_is_the_log_of_the_number_of_others() -> None:
    assert supcon_loss(torch.ones(B, D), LABELS).item() == pytest.approx(math.log(B - 1))


@pytest.mark.recomputed("supcon_loss", by="hand")
def test_supcon_of_two_views_with_labels_of_images_is_nt_xent_by_hand() -> None:
    views = torch.eye(2).repeat(2, 1)  # rows: image 0, image 1, image 0, image 1
    loss = supcon_loss(views, torch.tensor([0, 1, 0, 1]), temperature=0.5)
    assert loss.item() == pytest.approx(math.log(math.exp(2) + 2) - 2)


def test_supcon_leaves_an_anchor_without_a_positive_out_of_the_mean_but_not_out_of_the_others_candidates() -> None:
    pair = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    alone = torch.tensor([[0.0, 1.0]])
    assert supcon_loss(pair, torch.tensor([7, 7]), temperature=1.0).item() == 0  # no other candidate
    loss = supcon_loss(torch.cat([pair, alone]), torch.tensor([7, 7, 8]), temperature=1.0)
    assert loss.item() == pytest.approx(math.log(math.e + 1) - 1)


@pytest.mark.parametrize("batch", [1, 3])
def test_supcon_without_any_positive_is_zero_with_a_zero_gradient(batch: int) -> None:
    embeddings = rows(0, batch).requires_grad_()
    loss = supcon_loss(embeddings, torch.arange(batch))
    loss.backward()
    assert loss.item() == 0
    assert embeddings.grad is not None
    assert not embeddings.grad.any()


def test_supcon_sees_neither_length_nor_order_nor_a_rotation_nor_the_names_of_classes() -> None:
    expected = supcon_loss(rows(0), LABELS)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    rotation = torch.linalg.qr(rows(1, D)).Q
    torch.testing.assert_close(supcon_loss(rows(0) * torch.arange(1, B + 1)[:, None], LABELS), expected)
    torch.testing.assert_close(supcon_loss(rows(0)[order], LABELS[order]), expected)
    torch.testing.assert_close(supcon_loss(rows(0) @ rotation, LABELS), expected)
    torch.testing.assert_close(supcon_loss(rows(0), 10 - LABELS), expected)


@pytest.mark.recomputed("icl_loss", by="formula")
def test_icl_is_both_directions_of_the_definition() -> None:
    a, b, labels = rows(0), rows(1), LABELS.tolist()
    expected = by_label(a, b, labels, 0.1) + by_label(b, a, labels, 0.1)
    assert icl_loss(a, b, LABELS).item() == pytest.approx(expected, abs=1e-9)


def test_icl_of_a_peer_with_itself_is_twice_supcon() -> None:
    torch.testing.assert_close(icl_loss(rows(0), rows(0), LABELS), 2 * supcon_loss(rows(0), LABELS, temperature=0.1))


def test_icl_never_compares_a_sample_with_itself() -> None:
    a, b = rows(0).requires_grad_(), rows(1)
    turned = b.clone()
    turned[3] = -turned[3]  # a[3] has no positive, and is a candidate of every b but its own
    (before,) = torch.autograd.grad(icl_loss(a, b, LABELS), a)
    (after,) = torch.autograd.grad(icl_loss(a, turned, LABELS), a)
    torch.testing.assert_close(before[3], after[3])
    assert not torch.allclose(before[0], after[0])


def test_icl_peers_that_hold_each_others_embeddings_as_constants_get_the_joint_gradient() -> None:
    a, b = rows(0).requires_grad_(), rows(1).requires_grad_()
    joint = torch.autograd.grad(icl_loss(a, b, LABELS), [a, b])
    (alone_a,) = torch.autograd.grad(icl_loss(a, b.detach(), LABELS), a)
    (alone_b,) = torch.autograd.grad(icl_loss(a.detach(), b, LABELS), b)
    torch.testing.assert_close(joint, (alone_a, alone_b))
    torch.testing.assert_close(icl_loss(a, b, LABELS), icl_loss(b, a, LABELS))


@pytest.mark.recomputed("soft_similarity_loss", "soft_icl_loss", by="formula")
@pytest.mark.parametrize(("preset", "own"), [("without_self", False), ("official", True)])
def test_soft_losses_equal_the_definition(preset: str, own: bool) -> None:
    a, b, t, tau = rows(0), rows(1), 3.0, 0.1

    def relation(x: Tensor, others: Tensor, i: int) -> list[float]:
        return softmax([cosine(x, y) / tau / t for j, y in enumerate(others) if own or j != i])

    vcl = icl = 0.0
    for i in range(B):
        vcl += t**2 * kl(relation(b[i], b, i), relation(a[i], a, i)) / B
        forth, back = relation(a[i], b, i), relation(b[i], a, i)
        icl += t**2 * (kl(back, forth) + kl(forth, back)) / B
    assert soft_similarity_loss(a, b, preset=preset).item() == pytest.approx(vcl, abs=1e-9)
    assert soft_icl_loss(a, b, preset=preset).item() == pytest.approx(icl, abs=1e-9)
    if preset == "official":  # the default
        assert soft_similarity_loss(a, b).item() == pytest.approx(vcl, abs=1e-9)
        assert soft_icl_loss(a, b).item() == pytest.approx(icl, abs=1e-9)


def test_soft_losses_are_zero_where_the_similarities_agree() -> None:
    rotation = torch.linalg.qr(rows(1, D)).Q
    assert soft_similarity_loss(rows(0), 3 * rows(0) @ rotation).item() == pytest.approx(0, abs=1e-9)
    assert soft_icl_loss(rows(0), rows(0)).item() == pytest.approx(0, abs=1e-9)


def test_soft_similarity_compares_spaces_of_different_width() -> None:
    wider = torch.cat([rows(1), torch.zeros(B, 3).double()], dim=1)
    torch.testing.assert_close(soft_similarity_loss(rows(0), wider), soft_similarity_loss(rows(0), rows(1)))


def test_soft_icl_descends_the_imitating_distributions_only() -> None:
    """Of T^2 KL(p || q) with p a constant, the gradient by q's logits is T (q - p) / B."""
    a, b = rows(0).requires_grad_(), rows(1)
    (gradient,) = torch.autograd.grad(soft_icl_loss(a, b, temperature=1.0, similarity_temperature=1.0, preset="official"), a)
    unit_a = a.detach() / a.detach().norm(dim=1, keepdim=True)
    unit_b = b / b.norm(dim=1, keepdim=True)
    forth, back = (unit_a @ unit_b.T).softmax(1), (unit_b @ unit_a.T).softmax(1)
    by_similarity = (forth - back) / B + ((back - forth) / B).T  # S moves p(S) and, transposed, p(S^T)
    by_unit = by_similarity @ unit_b
    tangent = by_unit - (by_unit * unit_a).sum(1, keepdim=True) * unit_a  # the length does not matter
    torch.testing.assert_close(gradient, tangent / a.detach().norm(dim=1, keepdim=True))


@pytest.mark.parametrize("preset", ["official", "without_self"])
def test_soft_losses_of_a_lone_sample_are_zero(preset: str) -> None:
    assert soft_similarity_loss(rows(0, 1), rows(1, 1), preset=preset).item() == 0
    assert soft_icl_loss(rows(0, 1), rows(1, 1), preset=preset).item() == 0


CALLS: list[Callable[..., Tensor]] = [
    lambda x, y, **options: supcon_loss(torch.cat([x, y]), LABELS.repeat(2), **options),
    lambda x, y, **options: icl_loss(x, y, LABELS, **options),
    lambda x, y, **options: soft_similarity_loss(x, y.detach(), **options),
    lambda x, y, **options: soft_similarity_loss(x, y.detach(), preset="without_self", **options),
    lambda x, y, **options: seed_loss(x, y.detach(), rows(2, 3).to(x), **options),
]


@pytest.mark.parametrize("loss", CALLS)
def test_gradcheck(loss: Callable[..., Tensor]) -> None:
    teacher = rows(1)
    assert gradcheck(lambda x: loss(x, teacher, temperature=0.5), [rows(0).requires_grad_()])


@pytest.mark.parametrize("loss", [*CALLS, lambda x, y, **options: soft_icl_loss(x, y, **options)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.01, 1.0])
@pytest.mark.parametrize("kind", ["large", "zero", "equal", "opposite"])
def test_is_finite_with_a_finite_gradient_at_the_extremes(
    loss: Callable[..., Tensor], dtype: torch.dtype, temperature: float, kind: str
) -> None:
    random = rows(0)
    pairs = {
        "large": (1e4 * random, 1e4 * rows(1)),
        "zero": (torch.zeros(B, D), torch.zeros(B, D)),
        "equal": (random, random),
        "opposite": (random, -random),
    }
    x, y = (tensor.to(dtype) for tensor in pairs[kind])
    x.requires_grad_()
    value = loss(x, y, temperature=temperature)
    value.backward()
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("loss", [*CALLS, soft_icl_loss, lambda x, y, **options: nt_xent_loss(x, y, temperature=0.07)])
def test_a_zero_vector_has_no_direction_and_gets_no_gradient(loss: Callable[..., Tensor]) -> None:
    embeddings = rows(0)
    embeddings[2] = 0
    (gradient,) = torch.autograd.grad(loss(embeddings.requires_grad_(), rows(1)), embeddings)
    assert not gradient[2].any()
    assert gradient[0].any()


def test_float32_is_close_to_float64_at_the_lowest_temperature() -> None:
    options: dict[str, Any] = {"temperature": 0.01}
    for loss in CALLS[:4]:
        expected = loss(rows(0), rows(1), **options).item()
        assert loss(rows(0).float(), rows(1).float(), **options).item() == pytest.approx(expected, rel=1e-4)


def test_off_diagonal_of_one_is_empty_and_passes_the_gradient() -> None:
    matrix = rows(0, D).requires_grad_()
    off_diagonal(matrix).sum().backward()
    assert matrix.grad is not None
    assert matrix.grad.tolist() == (1 - torch.eye(D)).tolist()
    assert off_diagonal(torch.ones(1, 1)).shape == (1, 0)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"supcon_loss: labels is \(5,\); expected \(6\)"):
        supcon_loss(rows(0), LABELS[:5])
    with pytest.raises(ValueError, match=r"supcon_loss: embeddings is \(6, 2, 2\); expected \(B, D\)"):
        supcon_loss(rows(0).view(B, 2, 2), LABELS)
    with pytest.raises(ValueError, match=r"icl_loss: embeddings is \(6, 3\); expected \(6, 4\)"):
        icl_loss(rows(0), rows(0)[:, :3], LABELS)
    with pytest.raises(ValueError, match=r"icl_loss: labels is \(5,\)"):
        icl_loss(rows(0), rows(0), LABELS[:5])
    with pytest.raises(ValueError, match=r"soft_similarity_loss: teacher is \(5, 4\); expected \(6, D\)"):
        soft_similarity_loss(rows(0), rows(0)[:5])
    with pytest.raises(ValueError, match=r"soft_icl_loss: embeddings is \(5, 4\)"):
        soft_icl_loss(rows(0), rows(0)[:5])


@pytest.mark.parametrize("loss", [soft_similarity_loss, soft_icl_loss])
def test_an_unknown_preset_is_an_input_error(loss: Callable[..., Tensor]) -> None:
    with pytest.raises(InputError, match=rf"unknown {loss.__name__}: preset 'offical': did you mean 'official'\?"):
        loss(rows(0), rows(1), preset="offical")
