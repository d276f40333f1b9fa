"""NT-Xent against values by hand, a naive loop, and its invariants."""

import math

import pytest
import torch
from torch import Tensor

from fedkd.losses import nt_xent_loss


def naive(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """The definition, term by term."""
    rows = [row / row.norm() for row in [*a, *b]]
    total = torch.zeros((), dtype=a.dtype)
    for i in range(len(rows)):
        partner = (i + len(a)) % len(rows)
        others = sum(torch.exp(rows[i] @ rows[j] / temperature) for j in range(len(rows)) if j != i)
        total = total - torch.log(torch.exp(rows[i] @ rows[partner] / temperature) / others)
    return total / len(rows)


@pytest.fixture
def views() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    a = torch.randn(7, 5, dtype=torch.float64, generator=rng)
    return a, a + 0.5 * torch.randn(7, 5, dtype=torch.float64, generator=rng)


@pytest.mark.recomputed("nt_xent_loss", by="hand")
@pytest.mark.parametrize("batch", [1, 2, 64])
def test_identical_rows_cannot_be_told_apart(batch: int) -> None:
    rows = torch.full((batch, 3), 2.0)
    assert nt_xent_loss(rows, rows, temperature=0.1).item() == pytest.approx(math.log(2 * batch - 1), abs=1e-5)


@pytest.mark.recomputed("nt_xent_loss", by="hand")
def test_two_orthogonal_pairs_by_hand() -> None:
    rows = torch.eye(2)  # partner: cosine 1; the other two rows: cosine 0
    expected = math.log(math.exp(1 / 0.5) + 2) - 1 / 0.5
    assert nt_xent_loss(rows, rows, temperature=0.5).item() == pytest.approx(expected, abs=1e-6)


def test_orthogonal_pairs_tend_to_zero_with_the_temperature() -> None:
    rows = torch.eye(8)
    assert nt_xent_loss(rows, rows, temperature=0.05).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.recomputed("nt_xent_loss", by="formula")
@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_equals_the_definition_and_so_does_its_gradient(views: tuple[Tensor, Tensor], temperature: float) -> None:
    ours, theirs = ([view.clone().requires_grad_() for view in views] for _ in range(2))
    loss, expected = nt_xent_loss(*ours, temperature=temperature), naive(*theirs, temperature)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_gradcheck(views: tuple[Tensor, Tensor]) -> None:
    inputs = [view.requires_grad_() for view in views]
    assert torch.autograd.gradcheck(lambda a, b: nt_xent_loss(a, b, temperature=0.3), inputs)


def test_is_symmetric_and_ignores_scale_and_common_order(views: tuple[Tensor, Tensor]) -> None:
    a, b = views
    loss = nt_xent_loss(a, b, temperature=0.2)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    torch.testing.assert_close(nt_xent_loss(b, a, temperature=0.2), loss)
    torch.testing.assert_close(nt_xent_loss(5 * a, b / 3, temperature=0.2), loss)
    torch.testing.assert_close(nt_xent_loss(a[order], b[order], temperature=0.2), loss)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_is_finite_at_temperature_0_005(views: tuple[Tensor, Tensor], dtype: torch.dtype, scale: float) -> None:
    a, b = (torch.cat([view, -view]).mul(scale).to(dtype).requires_grad_() for view in views)
    loss = nt_xent_loss(a, b.flip(0), temperature=0.005)  # partners point away from each other
    expected = nt_xent_loss(a.double(), b.flip(0).double(), temperature=0.005)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss > 200  # where exp and sum overflow in float32
    loss.backward()
    assert a.grad.isfinite().all()
    assert b.grad.isfinite().all()


def test_a_frozen_view_gets_no_gradient_and_still_counts(views: tuple[Tensor, Tensor]) -> None:
    a = views[0].clone().requires_grad_()
    loss = nt_xent_loss(a, views[1], temperature=0.1)
    torch.testing.assert_close(loss, naive(*views, 0.1))
    loss.backward()
    assert a.grad.any()


def test_views_of_different_batches_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(4, 2\)"):
        nt_xent_loss(torch.ones(3, 2), torch.ones(4, 2), temperature=0.1)
