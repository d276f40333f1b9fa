"""KT-pFL's knowledge coefficients: who learns from whom."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedkd.aggregate import learned_coefficients, mean, personalised


def example(clients: int, seed: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    tables = torch.randn(clients, 8, 5, generator=rng, dtype=torch.float64).mul(3).softmax(-1)
    return tables, torch.rand(clients, clients, generator=rng, dtype=torch.float64).softmax(-1)


def uniform(clients: int) -> Tensor:
    return torch.full((clients, clients), 1 / clients, dtype=torch.float64)


def objective(tables: Tensor, coefficients: Tensor, rho: float) -> float:
    fit = (personalised(tables, coefficients) - tables).square().mean((1, 2))
    return (fit + rho * (coefficients - 1 / len(tables)).square().mean(1)).sum().item()


@pytest.mark.recomputed("learned_coefficients", by="hand")
def test_one_step_by_hand() -> None:
    """Tables (1, 0) and (0, 1), from 1/2: the mixture misses by (-1/2, 1/2), so the gradient is 2/2 * (-1/2, 1/2)."""
    tables = torch.eye(2, dtype=torch.float64).unsqueeze(1)
    expected = torch.tensor([[0.6, 0.4], [0.4, 0.6]], dtype=torch.float64)
    torch.testing.assert_close(learned_coefficients(tables, uniform(2), lr=0.2, rho=0.0), expected)
    pulled = 0.5 + 0.1 / (1 + 2 * 0.2 * 5.0 / 2)  # rho = 5 halves what the step gained
    assert learned_coefficients(tables, uniform(2), lr=0.2, rho=5.0)[0, 0].item() == pytest.approx(pulled)


@pytest.mark.recomputed("learned_coefficients", "personalised", by="formula")
def test_with_an_infinite_rho_everyone_gets_the_mean() -> None:
    tables, coefficients = example(5, seed=0)
    learned = learned_coefficients(tables, coefficients, lr=0.3, rho=float("inf"))
    torch.testing.assert_close(learned, uniform(5))
    torch.testing.assert_close(personalised(tables, learned), mean(tables).expand(5, -1, -1))


def test_without_a_step_coefficients_stay() -> None:
    tables, coefficients = example(5, seed=1)
    torch.testing.assert_close(learned_coefficients(tables, coefficients, lr=0.0), coefficients)
    torch.testing.assert_close(learned_coefficients(tables, uniform(5), lr=0.0, rho=float("inf")), uniform(5))


@settings(deadline=None)
@given(st.integers(1, 8), st.floats(0, 0.99), st.floats(0, 1e6), st.integers(0, 2**31))
def test_rows_sum_to_one_and_no_step_below_c_over_k_makes_matters_worse(
    clients: int, step: float, rho: float, seed: int
) -> None:
    tables, coefficients = example(clients, seed)
    learned = learned_coefficients(tables, coefficients, lr=step * 5 / clients, rho=rho)
    assert (learned >= 0).all()
    torch.testing.assert_close(learned.sum(1), torch.ones(clients, dtype=torch.float64))
    before = objective(tables, coefficients, rho)
    assert objective(tables, learned, rho) <= before + 1e-9 * (1 + before)


def test_two_camps_learn_to_listen_to_their_own() -> None:
    rng = torch.Generator().manual_seed(0)
    camps = torch.randn(2, 50, 10, generator=rng, dtype=torch.float64).mul(3)
    logits = camps[[0, 0, 0, 1, 1]] + torch.randn(5, 50, 10, generator=rng, dtype=torch.float64)
    tables, coefficients = logits.softmax(-1), uniform(5)
    for _ in range(50):
        coefficients = learned_coefficients(tables, coefficients, lr=1.0, rho=0.01)
    assert coefficients[:3, :3].sum(1).amin() > 0.9
    assert coefficients[3:, 3:].sum(1).amin() > 0.9


def test_renumbering_clients_renumbers_the_coefficients() -> None:
    tables, coefficients = example(5, seed=2)
    order = [3, 0, 4, 1, 2]
    learned = learned_coefficients(tables, coefficients, lr=0.5)
    renumbered = learned_coefficients(tables[order], coefficients[order][:, order], lr=0.5)
    torch.testing.assert_close(renumbered, learned[order][:, order])


def test_equal_tables_teach_that_table_whatever_the_coefficients() -> None:
    table, (_, coefficients) = torch.rand(8, 5, generator=torch.Generator().manual_seed(0)), example(4, seed=3)
    assert torch.equal(personalised(table.expand(4, -1, -1), coefficients), table.expand(4, -1, -1))


@pytest.mark.parametrize(("shape", "lr", "rho"), [((2, 3), 0.1, 0.7), ((3, 3), -0.1, 0.7), ((3, 3), 0.1, -1.0)])
def test_what_makes_no_step_is_refused(shape: tuple[int, int], lr: float, rho: float) -> None:
    with pytest.raises(ValueError, match="3 clients need"):
        learned_coefficients(torch.zeros(3, 2, 2), torch.zeros(shape), lr=lr, rho=rho)
