"""CL-ILR: its loss by hand, constant targets, and the trunk's share of the gradient."""

from __future__ import annotations

import pytest
import torch
from fedkd.strategies.cl_ilr import CLILR
from public_runs import server_of
from test_one import ROOT, after_one_step, cross_entropy, learnt, loss_of_a_batch, small, statistics, values

from fedkd import Experiment, Peers, simulate
from fedkd.base.errors import InputError


@pytest.mark.recomputed("cl_ilr", by="formula")
def test_the_loss_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, net, batch = loss_of_a_batch(CLILR(branches=3, beta=0.3, temperature=2.0), monkeypatch)
    a, b, c = net(batch.inputs).double()  # (B, C) each
    soft = 0.0
    for own, others in ((a, (b + c) / 2), (b, (a + c) / 2), (c, (a + b) / 2)):
        soft -= ((others / 2).softmax(1) * (own / 2).log_softmax(1)).sum(1).mean().item()
    hard = sum(cross_entropy(own, batch.labels) for own in (a, b, c))
    assert values(parts) == pytest.approx({"cross_entropy": 0.3 * hard, "distillation": 0.7 * soft}, rel=1e-4)


def test_targets_are_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all gradients stopped but those of head 0, the others' tails learn nothing from it."""
    parts, net, _ = loss_of_a_batch(CLILR(branches=2), monkeypatch)
    for parameter in net.classifiers[1].parameters():
        assert parameter.grad is None
    found = torch.autograd.grad(parts["distillation"], net.classifiers[0].weight, retain_graph=True)[0]
    again, same, batch = loss_of_a_batch(CLILR(branches=2), monkeypatch)
    features = same.outputs(batch.inputs).features.detach()  # (2, B, D)
    own, other = (head(held).double() for head, held in zip(same.classifiers, features, strict=True))  # (B, C)
    difference = ((own / 2).softmax(1) - (other / 2).softmax(1)).detach() / 2 / len(batch)  # of the soft term by z_0
    torch.testing.assert_close(found.double(), 0.5 * difference.T @ features[0].double(), rtol=1e-3, atol=1e-6)
    again["distillation"].backward()
    assert all(learnt(tail) for tail in same.tails)
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in same.parameters())


@pytest.mark.recomputed("cl_ilr", by="formula")
def test_the_trunk_gets_the_mean_of_the_heads_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, net, batch = loss_of_a_batch(CLILR(branches=4, beta=1.0), monkeypatch)
    parts["cross_entropy"].backward()
    one = [torch.zeros_like(p) for p in net.trunk.parameters()]
    for head, tail in zip(net.classifiers, net.tails, strict=True):
        logits = head(tail(net.trunk(batch.inputs)))
        loss = torch.nn.functional.cross_entropy(logits, batch.labels)
        for total, gradient in zip(one, torch.autograd.grad(loss, list(net.trunk.parameters())), strict=True):
            total += gradient / 4
    for parameter, expected in zip(net.trunk.parameters(), one, strict=True):
        torch.testing.assert_close(parameter.grad, expected)


def test_a_step_runs_every_part_once_and_moves_statistics_once() -> None:
    before, after, inputs, runs = after_one_step(CLILR())
    assert runs == ["trunk", *(f"tails.{i}" for i in range(4))]
    before.train()(inputs[0])
    expected = statistics(before)
    assert all(torch.equal(buffer, expected[name]) for name, buffer in statistics(after).items())
    assert {int(b) for name, b in expected.items() if name.endswith("num_batches_tracked")} == {1}


@pytest.mark.slow
def test_what_is_evaluated_and_reported() -> None:
    row = simulate(small(CLILR(beta=0.75))).metrics[1]
    assert row["distillation_weight"] == 0.25
    assert len(row["peer_accuracies"]) == 4 and row["accuracy"] == pytest.approx(row["mean_peer_accuracy"])
    server = server_of(small(CLILR()))
    predictors = CLILR().predictors(server, CLILR().first_broadcast(server))  # type: ignore[arg-type]
    assert list(predictors) == ["branches"] and isinstance(predictors["branches"], Peers)
    assert predictors["branches"].function(torch.zeros(5, 1, 8, 8)).shape == (4, 5, 10)


def test_an_unfit_experiment_is_told_at_once() -> None:
    with pytest.raises(InputError, match=r"strategy\.branches"):
        small(CLILR(branches=1))  # nobody to learn from
    with pytest.raises(InputError, match="no trunk"):
        small(CLILR()).replace(net_options={"mlp": {"hidden": [8]}})


@pytest.mark.slow
def test_the_experiment_file_learns() -> None:
    """Seen, seed 0: 99.0 %."""
    assert simulate(Experiment.from_toml(ROOT / "simulations/digits_cl_ilr.toml")).metrics[-1]["accuracy"] > 0.93
