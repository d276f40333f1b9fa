"""The spectral filter: what it drops, and when it is the mean."""

import pytest
import torch
from torch import Tensor

from fedkd.aggregate import mean, spectral_filter


def honest(clients: int, rows: int, classes: int) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(1, rows, classes, generator=rng) + 0.1 * torch.randn(clients, rows, classes, generator=rng)


@pytest.mark.recomputed("spectral_filter", by="hand")
def test_a_lone_outlier_is_dropped_and_the_others_are_averaged() -> None:
    values = torch.tensor([[1.0, 0.0], [1.0, 2.0], [0.0, 1.0], [2.0, 1.0], [61.0, -59.0]]).unsqueeze(1)  # (5, 1, 2)
    assert spectral_filter(values, share=0.2).tolist() == [[1.0, 1.0]]


def test_without_outliers_it_is_the_mean() -> None:
    values = honest(20, 500, 4)
    same = (spectral_filter(values) == mean(values)).all(-1)
    assert same.double().mean() > 0.999


@pytest.mark.parametrize("classes", [4, 30])  # fewer and more than clients
def test_colluding_outliers_within_the_share_are_dropped_in_every_row(classes: int) -> None:
    values = honest(20, 100, classes)
    values[:4] = values[4:].mean(0) + 3 * torch.eye(classes)[0]
    torch.testing.assert_close(spectral_filter(values), values[4:].mean(0))


def test_outliers_in_different_directions_are_dropped_one_after_the_other() -> None:
    values = honest(20, 100, 4)
    values[0, :, 0] += 50
    values[1, :, 1] -= 20
    values[2, :, 2] += 9
    torch.testing.assert_close(spectral_filter(values), values[3:].mean(0), atol=0.03, rtol=0)


def test_a_camp_larger_than_the_share_is_no_outlier() -> None:
    votes = torch.eye(2)[[0] * 14 + [1] * 6].unsqueeze(1)  # 14 against 6 of 20, a share of 0.3
    assert torch.equal(spectral_filter(votes, share=0.2), mean(votes))
    assert spectral_filter(votes, share=0.3).tolist() == [[1.0, 0.0]]


def test_never_more_than_the_share_is_dropped() -> None:
    values = torch.tensor([0.0] * 8 + [10.0, 100.0]).view(10, 1, 1)
    assert spectral_filter(values, share=0.2).item() == 0
    assert spectral_filter(values, share=0.1, threshold=1e-9).item() == pytest.approx(10 / 9)


def test_an_infinite_threshold_or_few_clients_make_it_the_mean() -> None:
    values = honest(20, 10, 4)
    values[0] += 100
    assert torch.equal(spectral_filter(values, threshold=float("inf")), mean(values))
    assert torch.equal(spectral_filter(values[:4]), mean(values[:4]))


def test_a_class_that_nobody_predicts_changes_nothing() -> None:
    values = honest(10, 50, 4)
    values[0] += 3
    padded = torch.cat([values, torch.zeros(10, 50, 20)], dim=-1)  # more classes than clients: the other eigenproblem
    torch.testing.assert_close(spectral_filter(padded)[:, :4], spectral_filter(values))


def test_rotating_all_tables_rotates_the_result() -> None:
    values = honest(20, 50, 4).double()
    values[:3] += torch.tensor([2.0, 0.0, -2.0, 0.0])
    rotation, _ = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    torch.testing.assert_close(spectral_filter(values @ rotation), spectral_filter(values) @ rotation)


@pytest.mark.parametrize(("shape", "share"), [((5, 2), 0.2), ((4, 1, 2), 0.5), ((4, 1, 2), -0.1), ((0, 1, 2), 0.2)])
def test_no_rows_no_clients_or_no_majority_is_refused(shape: tuple[int, ...], share: float) -> None:
    with pytest.raises(ValueError):
        spectral_filter(torch.zeros(shape), share)
