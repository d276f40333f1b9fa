"""The gradients of the losses with parameters against finite differences, and batches of one."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from fedkd.losses import CRDLoss, FactorTransfer, ReviewKD, SemCKD, SSKDLoss, VIDLoss


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def vid(x: Tensor) -> Tensor:
    return VIDLoss(2, 3).double()(x, draw(1, 2, 3, 2, 2))


def crd(x: Tensor) -> Tensor:
    module = CRDLoss(2, 3, 9, dim=4, negatives=3, temperature=0.5).double().eval()
    module.log_partition.zero_()  # a constant: not estimated from x
    return module(x[:, :, 0, 0], draw(1, 2, 3), torch.tensor([5, 1]), torch.Generator().manual_seed(0))


def factors(x: Tensor) -> Tensor:
    return FactorTransfer(2, 4).double()(x, draw(1, 2, 4, 2, 2))


def review(x: Tensor) -> Tensor:
    shapes = [(2, 2, 2), (4, 1, 1)]
    deep = x.flatten(1)[:, :4, None, None]
    return ReviewKD(shapes, shapes).double()([x, deep], [draw(1, 2, 2, 2, 2), draw(2, 2, 4, 1, 1)])


def semckd(x: Tensor) -> Tensor:
    x = torch.cat([x, draw(2, 6, 2, 2, 2)])
    return SemCKD([(2, 2, 2)], [(3, 2, 2), (4, 1, 1)], 8).double()([x], [draw(1, 8, 3, 2, 2), draw(3, 8, 4, 1, 1)])


def sskd(x: Tensor) -> Tensor:
    rows = torch.cat([x.flatten(1), draw(1, 6, 8)])
    return SSKDLoss(8, 3).double()(rows, rows, draw(2, 8, 8), draw(3, 8, 3), torch.tensor([3, 5]))


@pytest.mark.parametrize("loss", [vid, crd, factors, review, semckd, sskd])
def test_gradcheck(loss: Callable[[Tensor], Tensor]) -> None:
    def from_one_start(x: Tensor) -> Tensor:
        torch.manual_seed(0)  # the same parameters at every call
        return loss(x)

    assert gradcheck(from_one_start, [draw(0, 2, 2, 2, 2).requires_grad_()])


def test_a_batch_of_one_is_finite() -> None:
    assert VIDLoss(2, 3)(torch.randn(1, 2, 2, 2), torch.randn(1, 3, 2, 2)).isfinite()
    assert FactorTransfer(2, 4)(torch.randn(1, 2, 2, 2), torch.randn(1, 4, 2, 2)).isfinite()
    assert CRDLoss(2, 3, 9, dim=4, negatives=3)(torch.randn(1, 2), torch.randn(1, 3), torch.tensor([4])).isfinite()
    assert ReviewKD([(2, 2, 2)], [(3, 2, 2)])([torch.randn(1, 2, 2, 2)], [torch.randn(1, 3, 2, 2)]).isfinite()
    assert SSKDLoss(2, 3)(
        torch.randn(4, 5), torch.randn(4, 2), torch.randn(4, 5), torch.randn(4, 3), torch.tensor([1])
    ).isfinite()
