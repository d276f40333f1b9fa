"""Draws that are copied are the very ones that would have been made, and the generator goes on as if they had been made."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fedkd.base import remembered_draws
from fedkd.base.randomness import seeded
from fedkd.base.remembered_draws import RememberedDraws, draws_of


def xavier() -> nn.Module:
    layer = nn.Linear(200, 200)
    nn.init.xavier_uniform_(layer.weight)
    return layer


def orthogonal() -> nn.Module:
    return nn.utils.parametrizations.orthogonal(nn.Linear(150, 150))


def truncated() -> nn.Module:
    layer = nn.Embedding(300, 100)
    nn.init.trunc_normal_(layer.weight)
    return layer


def drawn_dropout() -> nn.Module:
    """What is drawn after the weights decides what the net does."""
    return nn.Sequential(nn.Linear(200, 200), nn.Dropout(float(torch.rand(()))))


def random_table() -> nn.Module:
    """A buffer that no state dict holds."""
    net = nn.Linear(200, 200)
    net.register_buffer("table", torch.empty(200, 200).normal_() @ net.weight.detach(), persistent=False)
    return net


def traced() -> nn.Module:
    return torch.jit.trace(nn.Linear(200, 200), torch.zeros(1, 200))  # type: ignore[no-any-return, no-untyped-call]


def transformer() -> nn.Module:
    return nn.Sequential(nn.TransformerEncoderLayer(64, 4, 300), nn.LSTM(64, 100))


def held_by(net: nn.Module) -> list[Tensor]:
    numbers = [torch.tensor(part.p) for part in net.modules() if isinstance(part, nn.Dropout)]
    return [*net.parameters(), *net.buffers(), *numbers]


def made(make: Callable[[], nn.Module], draws: RememberedDraws | None, seed: int = 3) -> list[Tensor]:
    """What a net holds, and what the generator gives next."""
    with seeded(seed):
        if draws is None:
            net = make()
        else:
            with draws:
                net = make()
        return [*held_by(net), torch.rand(4), torch.randn(20)]


@pytest.mark.parametrize("make", [xavier, orthogonal, truncated, drawn_dropout, random_table, traced, transformer])
def test_nets_are_made_as_without_it(make: Callable[[], nn.Module]) -> None:
    draws = RememberedDraws()
    plain, other = made(make, None), made(make, None, seed=4)
    for _ in range(3):
        torch.testing.assert_close(made(make, draws), plain, rtol=0, atol=0)
    assert draws.any
    torch.testing.assert_close(made(make, draws, seed=4), other, rtol=0, atol=0)


def test_what_becomes_of_a_net_changes_no_later_one() -> None:
    draws, plain = RememberedDraws(), made(xavier, None)
    for _ in range(2):
        with torch.no_grad():
            made(xavier, draws)[0].zero_()
    assert torch.equal(made(xavier, draws)[0], plain[0])


def test_a_generator_of_ones_own_is_left_alone() -> None:
    draws, own = RememberedDraws(), torch.Generator().manual_seed(0)
    with seeded(3), draws:
        one, other = (torch.empty(200, 200).uniform_(generator=own) for _ in range(2))
    assert not draws.any
    assert not torch.equal(one, other)


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered_draws, "BYTES", 200_000)
    monkeypatch.setattr(remembered_draws, "_OF_SEEDS", {})
    first = draws_of(0)
    assert isinstance(first, RememberedDraws)
    assert all(torch.equal(*pair) for pair in zip(made(xavier, first), made(xavier, None), strict=True))
    assert [numbers.nbytes for numbers, _ in first._held.values()] == [160_000]  # the second draw had no room
    for seed in range(1, 7):
        draws_of(seed)
    assert len(remembered_draws._OF_SEEDS) == remembered_draws.SEEDS


def test_a_seed_without_large_draws_is_not_watched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered_draws, "_OF_SEEDS", {})
    with draws_of(0):
        nn.Linear(8, 8)
    assert not isinstance(draws_of(0), RememberedDraws)
