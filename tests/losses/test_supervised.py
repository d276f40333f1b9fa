"""Cross-entropy and the proximal term against values by hand."""

import math

import pytest
import torch
from torch import nn

from fedkd.losses import cross_entropy_loss, proximal_term


@pytest.mark.recomputed("cross_entropy_loss", by="hand")
def test_cross_entropy_of_a_coin_and_of_certainty() -> None:
    logits = torch.tensor([[0.0, 0.0], [0.0, math.log(3)]])  # probabilities (1/2, 1/2) and (1/4, 3/4)
    labels = torch.tensor([0, 1])
    assert cross_entropy_loss(logits, labels).item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)


def test_cross_entropy_is_finite_where_the_softmax_underflows() -> None:
    assert cross_entropy_loss(torch.tensor([[0.0, 1e4]]), torch.tensor([0])).item() == 1e4


def test_cross_entropy_gradcheck() -> None:
    logits = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: cross_entropy_loss(x, torch.tensor([0, 2, 1, 1])), [logits])


def test_cross_entropy_refuses_the_label_of_an_unlabelled_sample() -> None:
    with pytest.raises(IndexError):
        cross_entropy_loss(torch.zeros(1, 3), torch.tensor([-1]))


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1, bias=False)
        self.norm = nn.BatchNorm1d(1)
        self.layer.weight.data = torch.tensor([[3.0, -1.0]])
        self.norm.bias.requires_grad_(False)


@pytest.mark.recomputed("proximal_term", by="hand")
def test_proximal_term_is_half_the_squared_distance_and_its_gradient_the_difference() -> None:
    net = Tiny()
    reference = {name: torch.ones_like(tensor, dtype=torch.float32) for name, tensor in net.state_dict().items()}
    reference["norm.bias"] += 100  # frozen, so it does not count; nor do buffers
    term = proximal_term(net, reference)
    assert term.item() == (2**2 + 2**2) / 2
    term.backward()
    assert net.layer.weight.grad.tolist() == [[2.0, -2.0]]
    assert net.norm.weight.grad.tolist() == [0.0]
    assert net.norm.bias.grad is None


def test_proximal_term_keeps_its_gradient_after_the_first_step() -> None:
    net = nn.Linear(2, 2)
    reference = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    assert proximal_term(net, reference).item() == 0
    with torch.no_grad():
        net.weight += 1
    assert proximal_term(net, reference).item() == 2


def test_proximal_term_leaves_the_reference_alone() -> None:
    net, other = nn.Linear(2, 2), nn.Linear(2, 2)
    proximal_term(net, dict(other.named_parameters())).backward()
    assert net.weight.grad.any()
    assert other.weight.grad is None


def test_proximal_term_names_what_the_reference_lacks_or_has_in_another_shape() -> None:
    net = nn.Linear(2, 1)
    with pytest.raises(ValueError, match="'bias' is \\(1,\\); the reference has nothing"):
        proximal_term(net, {"weight": torch.zeros(1, 2)})
    with pytest.raises(ValueError, match=r"'weight' is \(1, 2\); the reference has \(2,\)"):
        proximal_term(net, {"weight": torch.zeros(2), "bias": torch.zeros(1)})


def test_proximal_term_of_a_frozen_net_is_zero() -> None:
    assert proximal_term(nn.Linear(2, 1).requires_grad_(False), {}).item() == 0
