"""Weights by the variance of logits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkd.aggregate import equal_scales, mean, variance_weights


@pytest.mark.recomputed("variance_weights", by="hand")
def test_weights_are_shares_of_the_variance_over_classes_sample_by_sample() -> None:
    logits = torch.tensor([[[1.0, -1.0], [2.0, -2.0]], [[3.0, -3.0], [0.0, 0.0]]], dtype=torch.float64)  # (K, P, C)
    torch.testing.assert_close(variance_weights(logits), torch.tensor([[0.1, 1.0], [0.9, 0.0]], dtype=torch.float64))


def test_clients_weigh_equally_where_no_logits_vary() -> None:
    assert variance_weights(torch.full((4, 1, 3), 7.0)).tolist() == [[0.25]] * 4


def test_a_constant_added_to_all_classes_changes_nothing() -> None:
    logits = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(variance_weights(logits + torch.arange(3).view(3, 1, 1)), variance_weights(logits))


@settings(deadline=None)
@given(st.integers(1, 8), st.floats(1e-3, 1e3), st.integers(0, 2**31))
def test_weights_sum_to_one_and_a_temperature_for_all_cancels(clients: int, temperature: float, seed: int) -> None:
    logits = torch.randn(clients, 5, 4, generator=torch.Generator().manual_seed(seed))
    weights = variance_weights(logits)
    torch.testing.assert_close(weights.sum(0), torch.ones(5))
    torch.testing.assert_close(variance_weights(logits / temperature), weights)


def test_on_one_scale_a_client_does_not_weigh_more_for_large_logits() -> None:
    logits = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0))
    louder = logits * torch.tensor([1.0, 10.0, 100.0]).view(3, 1, 1)
    torch.testing.assert_close(variance_weights(equal_scales(louder)), variance_weights(equal_scales(logits)))
    assert (variance_weights(louder)[2] > 0.9).all()


def test_a_client_whose_logits_never_vary_stays_as_it_is() -> None:
    assert torch.equal(equal_scales(torch.full((2, 3, 4), 5.0)), torch.full((2, 3, 4), 5.0))


def test_weights_are_what_mean_takes() -> None:
    logits = torch.tensor([[[1.0, -1.0]], [[3.0, -3.0]]])
    torch.testing.assert_close(mean(logits, variance_weights(logits)), torch.tensor([[2.8, -2.8]]))  # 0.1 * 1 + 0.9 * 3
