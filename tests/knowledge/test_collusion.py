"""Colluding attacks, by hand: what hostile clients make of the honest rows, and what they leave alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fedkd import Knowledge
from fedkd.engine.guard import check_upload
from fedkd.knowledge.attacks import ATTACKS
from fedkd.knowledge.collusion import collude
from fedkd.knowledge.knowledge import schema_of

COLLUDING = [name for name, attack in ATTACKS.items() if attack.collusion]


def sent(name: str, honest: Tensor, own: Tensor | None = None, *, space: str = "probabilities", liars: int = 1) -> Tensor:
    """What each liar sends where these honest rows (K, R, C) stand beside it."""
    rows = [*honest, *([honest[0].flip(-1) if own is None else own] * liars)]
    uploads = {client: Knowledge.of(space, {"rows": table}) for client, table in enumerate(rows)}
    hostile = range(len(honest), len(rows))
    after = collude(ATTACKS[name].collusion, uploads, hostile)  # type: ignore[arg-type]
    for client in range(len(honest)):
        assert after[client] is uploads[client]
    assert all(torch.equal(after[client].tensors["rows"], after[hostile[0]].tensors["rows"]) for client in hostile)
    return after[hostile[0]].tensors["rows"]


def test_lma_names_the_class_that_the_honest_mean_holds_least_likely() -> None:
    """Not the one that the liar itself holds least likely, which is the first."""
    honest = torch.tensor([[[0.7, 0.1, 0.2]], [[0.5, 0.4, 0.1]]])  # mean 0.6, 0.25, 0.15
    assert sent("lma", honest, torch.tensor([[0.0, 0.5, 0.5]])).tolist() == [[0, 0, 1]]


def test_cpa_names_the_class_least_correlated_with_the_likeliest() -> None:
    """Classes 0 and 1 go together from row to row, 0 and 2 against each other, though 1 is held least likely."""
    honest = torch.tensor([[[0.6, 0.1, 0.3], [0.3, 0.0, 0.7]]])
    assert sent("cpa", honest).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert sent("lma", honest).tolist() == [[0, 1, 0], [0, 1, 0]]


def test_hips_copies_the_honest_row_that_draws_the_mean_farthest() -> None:
    """In plain loops; each row that it sends is a row of an honest client, which no filter of rows can tell from it."""
    honest = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(0)).mul(2).softmax(-1)
    found, share = sent("hips", honest, liars=2), 2 / 6
    for place, row in enumerate(found.tolist()):
        rows = honest[:, place].tolist()
        mean = [sum(column) / 4 for column in zip(*rows, strict=True)]
        harm = [-sum(p * math.log(share * p + (1 - share) * q) for p, q in zip(mean, each, strict=True)) for each in rows]
        assert row == rows[harm.index(max(harm))]


@pytest.mark.parametrize("name", ["lma", "cpa"])
def test_of_logits_the_honest_mean_is_sent_with_two_values_swapped(name: str) -> None:
    honest = torch.tensor([[[3.0, 1.0, -1.0]], [[5.0, 1.0, -3.0]]])
    assert sent(name, honest, space="logits").sort(-1).values.tolist() == [[-2.0, 1.0, 4.0]]
    assert sent("lma", honest, space="logits").tolist() == [[-2.0, 1.0, 4.0]]


@pytest.mark.parametrize("name", COLLUDING)
def test_rows_of_zeros_say_nothing_and_stay_so(name: str) -> None:
    honest = torch.tensor([[[0.0, 0.0, 0.0], [0.2, 0.5, 0.3]], [[0.1, 0.2, 0.7], [0.2, 0.5, 0.3]]])
    own = torch.tensor([[0.4, 0.4, 0.2], [0.0, 0.0, 0.0]])
    found = sent(name, honest, own)
    assert found[1].tolist() == [0, 0, 0]
    assert found[0].sum().item() == pytest.approx(1)  # the honest row of zeros is neither averaged in nor copied


@pytest.mark.parametrize("name", COLLUDING)
def test_what_they_send_passes_the_guard_and_the_rest_is_honest(name: str) -> None:
    rng = torch.Generator().manual_seed(1)
    uploads = {
        client: Knowledge.of("probabilities", {"rows": torch.randn(4, 5, generator=rng).softmax(1).half()}, weight=3.0)
        .with_tensors("weights", {"layer": torch.randn(2, 5, generator=rng)})
        .with_tensors("labels", {"votes": torch.tensor([0, 4])})
        for client in range(4)
    }
    after = collude(ATTACKS[name].collusion, uploads, {1, 3})  # type: ignore[arg-type]
    assert list(after) == [0, 1, 2, 3]
    for client in (1, 3):
        check_upload(after[client], schema_of(uploads[client]), classes=5)
        assert after[client].weight == 3.0
        assert not torch.equal(after[client].tensors["rows"], uploads[client].tensors["rows"])
        for kept in ("layer", "votes"):
            assert torch.equal(after[client].tensors[kept], uploads[client].tensors[kept])


@pytest.mark.parametrize("name", COLLUDING)
def test_without_an_honest_upload_nobody_has_anything_to_see(name: str) -> None:
    uploads = {0: Knowledge.of("logits", {"rows": torch.ones(1, 3)})}
    assert torch.equal(collude(ATTACKS[name].collusion, uploads, {0})[0].tensors["rows"], torch.ones(1, 3))  # type: ignore[arg-type]
    assert collude(ATTACKS[name].collusion, {}, {0}) == {}  # type: ignore[arg-type]
