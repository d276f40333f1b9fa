"""BYOT: its loss by hand, who teaches whom, and which exit counts."""

from __future__ import annotations

import pytest
import torch
from fedkd.strategies.byot import BYOT
from public_runs import server_of
from test_one import ROOT, cross_entropy, learnt, loss_of_a_batch, small, statistics, values
from torch import Tensor

from fedkd import Experiment, Peers, simulate
from fedkd.base.errors import InputError


def soft_cross_entropy(teacher: Tensor, student: Tensor, temperature: float) -> float:
    """Of logits (B, C), in float64, without T^2."""
    p, q = ((logits.double() / temperature).softmax(1) for logits in (teacher, student))
    return -(p * q.log()).sum(1).mean().item()


@pytest.mark.recomputed("byot", by="formula")
@pytest.mark.parametrize(("net", "exits"), [("resnet18", 4), ("cnn", 2)])
def test_the_loss_by_hand(net: str, exits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = BYOT(alpha=0.2, temperature=2.0, distillation_scale=4.0, hint_weight=0.1)
    parts, module, batch = loss_of_a_batch(strategy, monkeypatch, net)
    found = module.outputs(batch.inputs)  # batch statistics: the same again
    assert len(found.logits) == exits
    *shallow, deepest = found.logits
    labels = sum(cross_entropy(own, batch.labels) for own in shallow)
    hints = [(own - found.features).double().square().sum().sqrt().item() for own in found.adapted]
    assert len(hints) == exits - 2  # none for the shallowest, which an exit of a cnn of two convolutions is
    assert values(parts) == pytest.approx(
        {
            "cross_entropy": cross_entropy(deepest, batch.labels) + 0.8 * labels,
            "distillation": 0.2 * 4.0 * sum(soft_cross_entropy(deepest, own, 2.0) for own in shallow),
            "hint": 0.1 * sum(hints),
        },
        rel=1e-4,
    )


@pytest.mark.parametrize("part", ["distillation", "hint"])
def test_the_deepest_exit_is_a_constant_teacher(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, net, _ = loss_of_a_batch(BYOT(), monkeypatch, "resnet18")
    parts[part].backward(retain_graph=True)
    last_stage = torch.nn.ModuleList([*net.net.encoder.blocks[6:], net.net.heads])
    assert not learnt(last_stage)
    assert learnt(net.ways[1]) and learnt(net.ways[2]) and learnt(net.net.encoder.stem)
    assert learnt(net.ways[0]) == (part == "distillation")
    assert learnt(net.adapters) == (part == "hint")
    sum(parts.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.parameters())


def test_a_hint_that_is_met_has_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The norm has none at 0 of its own: torch's is 0, not NaN."""
    parts, net, _ = loss_of_a_batch(BYOT(hint_weight=0.0), monkeypatch, "resnet18")
    sum(parts.values()).backward()  # type: ignore[union-attr]
    assert parts["hint"].item() == 0
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in net.parameters())


def test_a_step_moves_statistics_once(monkeypatch: pytest.MonkeyPatch) -> None:
    _, net, _ = loss_of_a_batch(BYOT(), monkeypatch, "resnet18")
    counts = {int(b) for name, b in statistics(net).items() if name.endswith("num_batches_tracked")}
    assert counts == {1}


@pytest.mark.slow
def test_the_deepest_exit_counts() -> None:
    row = simulate(small(BYOT(), "cnn")).metrics[1]
    assert row["distillation_weight"] == 0.3
    assert len(row["peer_accuracies"]) == 2 and row["accuracy"] == pytest.approx(row["peer_accuracies"][-1])
    server = server_of(small(BYOT(), "cnn"))
    predictors = BYOT().predictors(server, BYOT().first_broadcast(server))  # type: ignore[arg-type]
    exits = predictors["exits"]
    assert isinstance(exits, Peers) and exits.headline == 1
    assert exits.function(torch.zeros(5, 1, 8, 8)).shape == (2, 5, 10)


def test_an_unfit_experiment_is_told_at_once_or_before_the_first_round() -> None:
    with pytest.raises(InputError, match="nets: net 'mlp' has no feature maps for exits"):
        small(BYOT())
    with pytest.raises(InputError, match="net 'cnn' has no feature maps for exits"):
        simulate(small(BYOT(), "cnn").replace(net_options={"cnn": {"channels": [4]}}))


@pytest.mark.slow
def test_the_experiment_file_learns() -> None:
    """Seen, seed 0: the deepest exit 98.3 %."""
    assert simulate(Experiment.from_toml(ROOT / "simulations/digits_byot.toml")).metrics[-1]["accuracy"] > 0.93
