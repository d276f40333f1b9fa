"""Every target by its name, with what it needs to know: from an experiment's file to a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fedkd.base.errors import unknown
from fedkd.targets.by_label import lowest_loss, min_logit
from fedkd.targets.confidence import confidence
from fedkd.targets.covariance import covariance
from fedkd.targets.entropy import entropy
from fedkd.targets.linear import linear
from fedkd.targets.means import mean_logits, mean_probs, weighted
from fedkd.targets.min_norm import min_norm
from fedkd.targets.target import Target
from fedkd.targets.unify import unify
from fedkd.targets.votes import vote


@final
@dataclass(frozen=True)
class Evidence:
    """All that may be known when a target is made: the teachers' logits, and whatever else the caller has.

    Args:
        logits: (K, B, C) of K >= 1 teachers.
        temperature: T > 0 of those targets that are probabilities.
        labels: (B,) integers below C.
        student: (B, C) logits.
        class_sets: (K, C) bool, which classes each teacher knows.
        weights: (K,) numbers >= 0, one a teacher.
        validation_logits: (K, V, C) on samples that neither teachers nor student were trained or are tested on.
        validation_labels: (V,) integers below C.
        rng: where noise comes from.
        noise: its scale, in votes; 0 is none.
    """

    logits: Tensor
    temperature: float = 1.0
    labels: Tensor | None = None
    student: Tensor | None = None
    class_sets: Tensor | None = None
    weights: Tensor | None = None
    validation_logits: Tensor | None = None
    validation_labels: Tensor | None = None
    rng: torch.Generator | None = None
    noise: float = 0.0

    def needed(self, name: str) -> Tensor:
        """What a rule cannot do without.

        Raises:
            ValueError: the evidence lacks it.

        >>> Evidence(torch.zeros(2, 3, 4)).needed("labels")
        Traceback (most recent call last):
        ValueError: the target needs labels, and the evidence has none
        """
        value = getattr(self, name)
        if value is None:
            raise ValueError(f"the target needs {name}, and the evidence has none")
        assert isinstance(value, Tensor)
        return value


@final
@dataclass(frozen=True)
class Rule:
    """A target by its name.

    Args:
        function: makes it.
        needs: which of "labels", "student", "class_sets", "weights" and "validation" the evidence must have for it.
        excludes: whether it may give a class the probability 0. No logit says that: what ``Target.logits`` gives for it stands
            for "never" in a softmax, and is a huge number to whoever compares logits themselves.
    """

    function: Callable[[Evidence], Target]
    needs: frozenset[str] = frozenset()
    excludes: bool = False


RULES: dict[str, Rule] = {
    "mean_logits": Rule(lambda e: mean_logits(e.logits)),
    "mean_probs": Rule(lambda e: mean_probs(e.logits, temperature=e.temperature)),
    "weighted": Rule(
        lambda e: weighted(e.logits, e.needed("weights"), temperature=e.temperature),
        frozenset({"weights"}),
    ),
    "lowest_loss": Rule(lambda e: lowest_loss(e.logits, e.needed("labels")), frozenset({"labels"})),
    "min_logit": Rule(lambda e: min_logit(e.logits, e.needed("labels")), frozenset({"labels"})),
    "linear": Rule(lambda e: linear(e.logits, e.needed("labels")), frozenset({"labels"})),
    "covariance": Rule(
        lambda e: covariance(e.logits, e.needed("validation_logits"), e.needed("validation_labels"), temperature=e.temperature),
        frozenset({"validation"}),
    ),
    "entropy": Rule(lambda e: entropy(e.logits, temperature=e.temperature)),
    "confidence": Rule(
        lambda e: confidence(e.logits, e.needed("labels"), temperature=e.temperature),
        frozenset({"labels"}),
    ),
    "min_norm": Rule(
        lambda e: min_norm(e.logits, e.needed("student"), temperature=e.temperature),
        frozenset({"student"}),
    ),
    "vote": Rule(lambda e: vote(e.logits, noise=e.noise, rng=e.rng), excludes=True),
    "unify": Rule(
        lambda e: unify(e.logits, e.needed("class_sets"), e.logits.shape[-1], temperature=e.temperature),
        frozenset({"class_sets"}),
        excludes=True,  # a class that no teacher knows
    ),
}


def rule_named(name: str) -> Rule:
    """The rule of that name.

    Raises:
        InputError: there is none.

    >>> rule_named("lowest_loss").needs
    frozenset({'labels'})
    >>> rule_named("mean_logit")
    Traceback (most recent call last):
    fedkd.base.errors.InputError: unknown target 'mean_logit': did you mean 'mean_logits'?
    """
    if name not in RULES:
        raise unknown("target", name, RULES)
    return RULES[name]
