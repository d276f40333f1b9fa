"""Every target with every loss on logits, found by looking: taught without blowing up, or refused before anything runs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedkd import Experiment
from fedkd.base.errors import InputError
from fedkd.losses.distillers import DISTILLERS, Pairing, Shown, recipe_named
from fedkd.methods.students.teaching import TeachingTask
from fedkd.nets import Outputs
from fedkd.targets import RULES, Evidence

K, B, V, C, T = 3, 12, 20, 5, 4.0
LOSSES = [name for name in DISTILLERS if TeachingTask(loss=name).on_logits]
RAW = [name for name in LOSSES if DISTILLERS[name].raw]


def evidence(student: Tensor) -> Evidence:
    """Teachers that are sure of themselves, of whom none knows the last class."""
    rng = torch.Generator().manual_seed(0)
    known = torch.ones(K, C, dtype=torch.bool)
    known[:, -1], known[0, 0] = False, False
    held = {"validation_logits": 5 * torch.randn(K, V, C, generator=rng), "validation_labels": torch.arange(V) % C}
    weights, labels = torch.tensor([1.0, 0.0, 2.0]), torch.arange(B) % C
    logits = 5 * torch.randn(K, B, C, generator=rng)
    return Evidence(logits, T, labels, student.detach(), class_sets=known, weights=weights, **held)


def experiment(target: str, loss: str) -> Experiment:
    strategy = {"name": "multi_teacher", "target": target, "loss": loss}
    strategy |= {"teacher_weights": [1.0, 0.0, 2.0]} if "weights" in RULES[target].needs else {}
    data = {"clients": 3, "public": 40, "public_labels": True, "validation": 40, "train_limit": 200}
    return Experiment(strategy=strategy, data=data)


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("target", RULES)
def test_a_student_is_taught_or_the_pair_is_refused(target: str, loss: str) -> None:
    """Free logits, 200 steps: a target that stands at -349 sends them, and the loss, beyond all bounds."""
    try:
        experiment(target, loss)
    except InputError as error:
        assert "\n" not in str(error) and loss in str(error) and target in str(error)
        assert RULES[target].excludes and DISTILLERS[loss].raw
        return
    logits = torch.randn(B, C, generator=torch.Generator().manual_seed(1)).requires_grad_()
    known, ids = evidence(logits), torch.arange(B)
    assert known.labels is not None
    told = Outputs(RULES[target].function(known).logits(T))
    distiller = recipe_named(loss).make(Pairing(Outputs(logits), told, T, ids, known.labels))
    shown, steps, seen = Shown(torch.zeros(B, 1, 1, 1), known.labels, ids), torch.optim.SGD([logits], lr=0.05), []
    for _ in range(200):
        steps.zero_grad()
        value = distiller(Outputs(logits), told, shown)
        value.backward()
        assert logits.grad is not None and bool(logits.grad.isfinite().all()) and float(logits.grad.abs().max()) < 20
        seen.append(value.item())
        steps.step()
    assert seen[-1] < seen[0] < 1e3
    assert float(logits.detach().abs().max()) < 100


def test_a_vote_has_no_logits_and_a_class_that_nobody_knows_none() -> None:
    assert {name for name, rule in RULES.items() if rule.excludes} == {"vote", "unify"}
    assert sorted(RAW) == ["logit_mae", "logit_mse"]
    with pytest.raises(
        InputError, match=r"strategy\.loss: 'logit_mse' compares logits, and target 'vote' gives classes a probab"
    ):
        experiment("vote", "logit_mse")
    logits = torch.zeros(B, C)
    for name, rule in RULES.items():
        assert rule.excludes >= bool((rule.function(evidence(logits)).probabilities(T) == 0).any()), name
