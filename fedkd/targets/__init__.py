"""What a student learns from K teachers: pure functions of their logits, one idea a file.

All of them take ``logits`` (K, B, C) first and give a ``Target``, which says whether it is logits or probabilities. They
compute in at least float32, float64 stays float64; the order of teachers does not matter, and no gradient reaches them.
"""

from fedkd.targets.attention import attention
from fedkd.targets.by_label import lowest_loss, min_logit
from fedkd.targets.confidence import confidence, confidence_weights
from fedkd.targets.covariance import covariance, covariance_weights
from fedkd.targets.entropy import entropy, entropy_weights
from fedkd.targets.linear import linear, linear_weights
from fedkd.targets.means import mean_logits, mean_probs, weighted
from fedkd.targets.min_norm import min_norm, min_norm_weights
from fedkd.targets.rules import RULES, Evidence, Rule, rule_named
from fedkd.targets.target import Target
from fedkd.targets.unify import unify
from fedkd.targets.votes import confident_vote, consistent, vote, votes

__all__ = [
    "RULES",
    "Evidence",
    "Rule",
    "Target",
    "attention",
    "confidence",
    "confidence_weights",
    "confident_vote",
    "consistent",
    "covariance",
    "covariance_weights",
    "entropy",
    "entropy_weights",
    "linear",
    "linear_weights",
    "lowest_loss",
    "mean_logits",
    "mean_probs",
    "min_logit",
    "min_norm",
    "min_norm_weights",
    "rule_named",
    "unify",
    "vote",
    "votes",
    "weighted",
]
