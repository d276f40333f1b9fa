"""FedX's relational loss against values by hand, a naive loop, and its invariants."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from fedkd.base.errors import InputError
from fedkd.losses import relational_loss

DIVERGENCES = ["reverse_kl", "jsd"]


def naive(a: Tensor, b: Tensor, anchors: Tensor, *, temperature: float, target_temperature: float, divergence: str) -> Tensor:
    """The definition, sample by sample."""

    def relation(x: Tensor, t: float) -> Tensor:
        cosines = [x @ anchor / (x.norm() * anchor.norm()) for anchor in anchors]
        return torch.softmax(torch.stack(cosines) / t, dim=0)

    def kl(p: Tensor, q: Tensor) -> Tensor:
        return (p * torch.log(p / q)).sum()

    total = torch.zeros((), dtype=a.dtype)
    for x, y in zip(a, b, strict=True):
        m = (relation(x, target_temperature) + relation(y, target_temperature)) / 2
        for r in (relation(x, temperature), relation(y, temperature)):
            total = total + (kl(m, r) if divergence == "reverse_kl" else kl(r, m)) / 2
    return total / len(a)


@pytest.fixture
def inputs() -> list[Tensor]:
    rng = torch.Generator().manual_seed(0)
    return [torch.randn(rows, 4, dtype=torch.float64, generator=rng).requires_grad_() for rows in (5, 5, 3)]


@pytest.mark.recomputed("relational_loss", by="hand")
def test_the_two_divergences_by_hand() -> None:
    # cosines (1, 0) and (0, 1) over 1 / log 3: relations (3/4, 1/4) and (1/4, 3/4), so m = (1/2, 1/2)
    loss = partial(
        relational_loss,
        torch.tensor([[2.0, 0.0]]),
        torch.tensor([[0.0, 3.0]]),
        torch.eye(2),
        temperature=1 / math.log(3),
        target_temperature=1 / math.log(3),
    )
    assert loss(divergence="reverse_kl").item() == pytest.approx(math.log(4 / 3) / 2, abs=1e-6)  # 0.1438
    assert loss(divergence="jsd").item() == pytest.approx(0.75 * math.log(1.5) - 0.25 * math.log(2), abs=1e-6)  # 0.1308


@pytest.mark.recomputed("relational_loss", by="formula")
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("temperatures", [(0.1, 0.1), (0.5, 0.2), (0.2, 1.0)])
def test_equals_the_definition_and_so_does_its_gradient(
    inputs: list[Tensor], divergence: str, temperatures: tuple[float, float]
) -> None:
    options = {"temperature": temperatures[0], "target_temperature": temperatures[1], "divergence": divergence}
    loss, expected = relational_loss(*inputs, **options), naive(*inputs, **options)
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("target_temperature", [0.3, 0.6])
def test_gradcheck(inputs: list[Tensor], divergence: str, target_temperature: float) -> None:
    loss = partial(relational_loss, temperature=0.3, target_temperature=target_temperature, divergence=divergence)
    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_vanishes_for_equal_views_and_equal_temperatures(inputs: list[Tensor], divergence: str) -> None:
    a, b, anchors = inputs
    loss = partial(relational_loss, temperature=0.1, divergence=divergence)
    assert loss(a, 7 * a, anchors, target_temperature=0.1).item() == pytest.approx(0, abs=1e-12)
    assert loss(a, a, anchors, target_temperature=0.2) > 0
    assert loss(a, b, anchors, target_temperature=0.1) > 0


def test_jsd_is_at_most_log_2_and_reaches_it() -> None:
    a, b = torch.tensor([[1.0, -1.0]]), torch.tensor([[-1.0, 1.0]])
    loss = partial(relational_loss, a, b, torch.eye(2), temperature=0.01, target_temperature=0.01)
    assert loss(divergence="jsd").item() == pytest.approx(math.log(2), abs=1e-6)
    assert loss(divergence="reverse_kl") > 60  # unbounded: half the distance of the logits, less log 2


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_is_symmetric_in_the_views(inputs: list[Tensor], divergence: str) -> None:
    a, b, anchors = inputs
    loss = partial(relational_loss, temperature=0.1, target_temperature=0.2, divergence=divergence)
    torch.testing.assert_close(loss(a, b, anchors), loss(b, a, anchors))


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_the_gradient_reaches_the_target_unless_detached(inputs: list[Tensor], divergence: str) -> None:
    options = {"temperature": 0.3, "target_temperature": 0.2, "divergence": divergence}
    fixed = [tensor.detach() for tensor in inputs]
    whole = torch.autograd.grad(relational_loss(*inputs, **options), inputs)
    detached = torch.autograd.grad(relational_loss(*inputs, **options, detach_target=True), inputs)
    with torch.no_grad():
        value = relational_loss(*fixed, **options)
    torch.testing.assert_close(relational_loss(*inputs, **options, detach_target=True), value)
    for with_target, without in zip(whole, detached, strict=True):  # a, b and the anchors
        assert with_target.any()
        assert without.any()
        assert not torch.allclose(with_target, without)


def test_detached_reverse_kl_descends_the_mean_of_p_minus_m(inputs: list[Tensor]) -> None:
    """Of softmax cross-entropy with a constant target m, the gradient by a logit is r - m."""
    cosines = torch.tensor([[0.3, -0.2, 0.5]], dtype=torch.float64)
    row = torch.cat([cosines, (1 - cosines.square().sum()).sqrt().view(1, 1)], dim=1).requires_grad_()  # of length 1
    anchors = torch.eye(4, dtype=torch.float64)
    loss = relational_loss(row, row, anchors, temperature=1.0, target_temperature=0.5, detach_target=True)
    (gradient,) = torch.autograd.grad(loss, row)
    by_cosine = torch.softmax(row, 1) - torch.softmax(row / 0.5, 1)
    tangent = by_cosine - (by_cosine * row).sum() * row  # the row's length does not matter
    torch.testing.assert_close(gradient, tangent.detach())


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_is_finite_at_temperature_0_005(inputs: list[Tensor], divergence: str, dtype: torch.dtype, scale: float) -> None:
    a, b, anchors = (tensor.detach().mul(scale).to(dtype).requires_grad_() for tensor in inputs)
    options = {"temperature": 0.005, "target_temperature": 0.005, "divergence": divergence}
    loss = relational_loss(a, b, anchors, **options)
    expected = relational_loss(a.double(), b.double(), anchors.double(), **options)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    loss.backward()
    assert all(tensor.grad.isfinite().all() for tensor in (a, b, anchors))


def test_bad_arguments_are_named() -> None:
    loss = partial(relational_loss, temperature=0.1, target_temperature=0.1)
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(4, 2\)"):
        loss(torch.ones(3, 2), torch.ones(4, 2), torch.ones(5, 2))
    with pytest.raises(InputError, match="'kl' is unknown: write 'reverse_kl' or 'jsd'"):
        loss(torch.ones(3, 2), torch.ones(3, 2), torch.ones(5, 2), divergence="kl")
