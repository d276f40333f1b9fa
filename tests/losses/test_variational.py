"""Variational information distillation against the definition, its best variance and sizes that differ."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.losses import VIDLoss


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_starts_at_the_asked_variance_and_trains_it() -> None:
    vid = VIDLoss(2, 3, initial_variance=4.0)
    assert vid.variance.tolist() == pytest.approx([4.0] * 3)
    assert "alpha" in dict(vid.named_parameters())


@pytest.mark.recomputed("VIDLoss", by="formula")
def test_equals_the_definition() -> None:
    vid = VIDLoss(2, 3, mid_channels=4).double()
    vid.alpha.data = draw(5, 3)
    student, teacher = draw(0, 2, 2, 2, 2), draw(1, 2, 3, 2, 2)
    first, second, third = (layer.weight[:, :, 0, 0] for layer in vid.mean if isinstance(layer, nn.Conv2d))
    terms = []
    for b in range(2):
        for y in range(2):
            for x in range(2):
                mean = third @ (second @ (first @ student[b, :, y, x]).relu()).relu()  # a 1x1 convolution is a matrix
                for c in range(3):
                    variance = math.log(1 + math.exp(vid.alpha[c].item())) + 1e-5
                    error = (mean[c] - teacher[b, c, y, x]).item()
                    terms.append(0.5 * (error**2 / variance + math.log(variance)))
    assert vid(student, teacher).item() == pytest.approx(sum(terms) / len(terms), abs=1e-9)


def test_the_best_variance_is_the_mean_squared_error() -> None:
    vid = VIDLoss(1, 1, initial_variance=9.0)
    for weight in vid.mean.parameters():
        nn.init.zeros_(weight)
    teacher = torch.full((1, 1, 2, 2), 3.0)  # the prediction is 0, so the error 3
    vid(teacher, teacher).backward()
    assert vid.alpha.grad is not None
    assert vid.alpha.grad.abs().max() < 1e-6


@pytest.mark.parametrize("sizes", [(4, 2), (2, 4)])
def test_the_larger_map_is_averaged_down(sizes: tuple[int, int]) -> None:
    vid = VIDLoss(2, 3)
    student, teacher = torch.randn(2, 2, sizes[0], sizes[0]), torch.randn(2, 3, sizes[1], sizes[1])
    expected = vid(F.adaptive_avg_pool2d(student, 2), F.adaptive_avg_pool2d(teacher, 2))
    torch.testing.assert_close(vid(student, teacher), expected)


def test_an_initial_variance_of_eps_is_refused() -> None:
    with pytest.raises(ValueError, match=r"initial variance 1e-05 must be above eps"):
        VIDLoss(1, 1, initial_variance=1e-5)
