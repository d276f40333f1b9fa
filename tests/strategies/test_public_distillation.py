"""What methods over public samples share: rows belong to samples, and no accepted upload breaks a reduction."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fedkd.strategies.fedmd_nfdp import FORMS
from public_runs import client_of, tiny

from fedkd import Knowledge, Split
from fedkd.losses import logit_mse, soft_cross_entropy
from fedkd.methods.public_distillation import distil, predict_public, stacked_probabilities, warm_up


def said(space: str, *tables: torch.Tensor) -> dict[int, Knowledge]:
    return {client: Knowledge.of(space, {space: table}) for client, table in enumerate(tables)}


def test_a_row_teaches_its_sample_wherever_it_stands() -> None:
    """One batch of all samples: the same rows in another order of both make the same step."""
    client = client_of(tiny("fedmd"))
    subset = client.public_subset()
    targets = torch.randn(len(subset), 10, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(len(subset), generator=torch.Generator().manual_seed(1))
    shuffled = Split(replace(subset.samples, indices=subset.samples.indices[order]), subset.work, subset.rng)
    nets = [client.net(name, init="shared") for name in ("one", "other", "wrong")]
    for net, samples, rows in zip(nets, (subset, shuffled, shuffled), (targets, targets[order], targets), strict=True):
        distil(net, samples, rows, logit_mse, epochs=3, batch_size=len(subset))
    one, other, wrong = (predict_public(net, subset) for net in nets)
    assert torch.allclose(one, other, atol=1e-5)
    assert not torch.allclose(one, wrong, atol=1e-2)


def test_predictions_stand_in_the_order_of_the_samples() -> None:
    client = client_of(tiny("fedmd"))
    subset, net = client.public_subset(), client.net()
    rows = predict_public(net, subset)
    assert rows.shape == (30, 10)
    third = Split(replace(subset.samples, indices=subset.samples.indices[2:3]), subset.work, subset.rng)
    assert torch.allclose(predict_public(net, third), rows[2:3], atol=1e-6)


def test_targets_for_other_samples_are_refused() -> None:
    client = client_of(tiny("fedmd"))
    with pytest.raises(ValueError, match="29 rows of targets cannot speak of 30 samples"):
        distil(client.net(), client.public_subset(), torch.zeros(29, 10), soft_cross_entropy)


def test_what_the_guard_lets_pass_becomes_distributions() -> None:
    """Rows that rounding took off the simplex, and a row that says nothing."""
    uploads = said("probabilities", torch.tensor([[0.5, -0.005], [0.0, 0.0]]), torch.tensor([[0.25, 0.75], [1.0, 0.0]]))
    assert stacked_probabilities(uploads).tolist() == [[[1.0, 0.0], [0.5, 0.5]], [[0.25, 0.75], [1.0, 0.0]]]


def test_labels_are_votes_of_one_byte() -> None:
    form = FORMS["labels"]
    assert form.spec(7, 10).raw_bytes == 7
    assert form.spec(7, 1000).raw_bytes == 28
    votes = form.of_logits(torch.tensor([[0.0, 3.0, 1.0], [2.0, 0.0, 1.0]]))
    assert votes.tolist() == [1, 0]
    uploads = said("labels", votes, torch.tensor([1, 2], dtype=torch.uint8))
    assert form.consensus(uploads, 3).tolist() == [[0.0, 1.0, 0.0], [0.5, 0.0, 0.5]]


def test_logits_and_probabilities_are_averaged_as_they_are() -> None:
    logits = torch.tensor([[0.0, 2.0]])
    assert FORMS["logits"].consensus(said("logits", logits, -logits), 2).tolist() == [[0.0, 0.0]]
    rows = FORMS["probabilities"].of_logits(torch.tensor([[0.0, 3.0]]).log1p())  # (1/5, 4/5)
    assert torch.allclose(FORMS["probabilities"].consensus(said("probabilities", rows, rows), 2), torch.tensor([[0.2, 0.8]]))


@pytest.mark.parametrize(("public_labels", "moves"), [(True, True), (False, False)])
def test_warming_up_takes_public_samples_only_with_labels(public_labels: bool, moves: bool) -> None:
    client = client_of(tiny("fedmd", data={"public_labels": public_labels}))
    net, before = client.net(), predict_public(client.net(), client.public_subset())
    warm_up(client, net, client.train, public_epochs=1, private_epochs=0)
    assert torch.equal(predict_public(net, client.public_subset()), before) != moves


def test_warming_up_happens_once() -> None:
    client = client_of(tiny("fedmd"))
    net, subset = client.net(), client.public_subset()
    warm_up(client, net, client.train, public_epochs=1, private_epochs=1)
    after = predict_public(net, subset)
    warm_up(client, net, client.train, public_epochs=1, private_epochs=1)
    assert torch.equal(predict_public(net, subset), after)
