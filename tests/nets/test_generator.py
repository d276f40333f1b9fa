"""Generators: what they make lies where nets' inputs lie, and layers of BatchNorm say how far it is from real samples."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fedkd.nets.batch_statistics import StatisticsGap, norms_of
from fedkd.nets.generator import Generator

PIXELS = torch.tensor([0.3, 0.5]), torch.tensor([0.1, 0.2])


def noise(count: int = 16, width: int = 6) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(7,), (5, 3), (1, 8, 8), (3, 9, 6), (2, 3, 3)])
def test_samples_of_real_numbers_have_mean_0_and_deviation_1(shape: tuple[int, ...]) -> None:
    samples = Generator(shape, noise=6, width=4)(noise(32))
    assert samples.shape == (32, *shape)
    flat = samples.movedim(1, -1).flatten(0, -2) if len(shape) == 3 else samples.flatten(0, -2)  # by channel or feature
    torch.testing.assert_close(flat.mean(0), torch.zeros(flat.shape[1]), atol=1e-5, rtol=0)
    torch.testing.assert_close(flat.std(0, correction=0), torch.ones(flat.shape[1]), atol=2e-2, rtol=0)


def test_pixels_are_standardised_as_real_ones_are() -> None:
    samples = Generator((2, 8, 8), noise=6, width=4, pixels=PIXELS)(noise())
    pixels = samples * PIXELS[1][:, None, None] + PIXELS[0][:, None, None]
    assert pixels.min() > 0 and pixels.max() < 1
    plain = Generator((2, 8, 8), noise=6, width=4, pixels=(torch.zeros(0), torch.ones(0)))(noise())
    assert plain.min() > 0 and plain.max() < 1


def test_a_generator_that_is_told_classes_needs_labels_and_no_other_takes_them() -> None:
    told, untold = Generator((3,), noise=6, classes=4), Generator((3,), noise=6)
    labels = torch.arange(16) % 4
    assert not torch.equal(told(noise(), labels), told(noise(), labels.flip(0)))
    with pytest.raises(ValueError, match=r"^this generator takes a label of 4 classes for each sample, and got none$"):
        told(noise())
    with pytest.raises(ValueError, match=r"^this generator takes no labels$"):
        untold(noise(), labels)


def test_it_starts_anew_by_a_seed_alone() -> None:
    one, other = (Generator((1, 8, 8), noise=6, width=4) for _ in range(2))
    for each in (one, other):
        each.redraw(torch.Generator().manual_seed(3))
    torch.testing.assert_close(one(noise()), other(noise()))
    before = one(noise())
    one.redraw(torch.Generator().manual_seed(4))
    assert not torch.allclose(one(noise()), before)


def trained(*layers: nn.Module) -> nn.Module:
    """A net whose running statistics are those of one batch."""
    net = nn.Sequential(*layers)
    for norm in norms_of(net):
        norm.momentum = 1.0
    net(noise(64))
    for norm in norms_of(net):
        norm.running_var *= 63 / 64  # torch keeps the unbiased one
    return net.eval()


def test_the_gap_is_0_for_the_samples_of_the_statistics_and_not_for_shifted_ones() -> None:
    net = trained(nn.BatchNorm1d(6), nn.Linear(6, 4), nn.BatchNorm1d(4))
    with StatisticsGap([net]) as gap:
        net(noise(64))
        assert gap.take().item() == pytest.approx(0, abs=1e-4)
        net(noise(64) + 1)
        shifted = gap.take()
        assert shifted > 1
        net(noise(64) + 1)
        net(noise(64) + 1)
        torch.testing.assert_close(gap.take(), 2 * shifted)
    net(noise(64))
    assert gap.take() == 0  # nothing is looked at outside


def test_the_gap_is_a_mean_over_nets_of_sums_over_layers_and_reaches_nets_in_a_list() -> None:
    nets = [trained(nn.BatchNorm1d(6)), nn.Sequential(nn.Linear(6, 2)).eval()]
    samples = (noise(64) + 1).requires_grad_()
    with StatisticsGap(nets) as gap:
        for net in nets:
            net(samples)
        found = gap.take()
    torch.testing.assert_close(found, torch.ones(6).norm() / 2, atol=1e-4, rtol=1e-4)  # means are off by 1, variances not
    found.backward()
    assert samples.grad is not None and samples.grad.abs().max() > 0
    with StatisticsGap(nets[1:]) as gap:
        nets[1](samples)
        assert gap.take() == 0
