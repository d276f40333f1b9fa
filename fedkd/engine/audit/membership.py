"""Membership inference by likelihood ratios (LiRA): was this sample among those that a client trained on?

Carlini et al., "Membership Inference Attacks From First Principles", IEEE S&P 2022, arXiv 2112.03570: how sure a net is of a
sample's label, held against nets that trained on the sample and nets that did not. Here the variances are those of all samples
together, as the paper does where there are few such nets.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: Shares of non-members that may be taken for members.
RATES = (0.001, 0.01)
RESAMPLES = 500

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number and the 95 % interval of a bootstrap over samples."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Attack:
    """How well members are told from non-members. ``true_positives`` by the share of false ones, of ``RATES``; None where
    there are too few non-members for one false positive.
    """

    auc: Estimate
    true_positives: dict[float, Estimate | None]
    members: int
    non_members: int

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        rates = {f"{rate:g}": asdict(found) if found else None for rate, found in self.true_positives.items()}
        sizes = {"members": self.members, "non_members": self.non_members}
        return {"auc": asdict(self.auc), "true_positives_at": rates, **sizes}


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """How sure nets are of labels: the logit of the label less the log-sum-exp of all others.

    Args:
        logits: (S, N, C), of S nets.
        labels: (N,) int64.

    >>> log_odds(torch.tensor([[[0.0, 0.0]]]), torch.tensor([1])).item()
    0.0
    """
    index = labels.expand(len(logits), -1).unsqueeze(2)  # (S, N, 1)
    others = logits.scatter(2, index, -torch.inf).logsumexp(2)
    return logits.gather(2, index).squeeze(2) - others


def likelihood_ratios(targets: Tensor, shadows: Tensor, held: Tensor) -> Tensor:
    """The log of how much likelier each target's confidence is for a net that trained on the sample. (T, N), NaN where unknown.

    Args:
        targets: (T, N) confidences of the nets that are attacked.
        shadows: (S, N) those of nets of which it is known.
        held: (S, N) bool, whether the net trained on the sample.
    """
    inside, outside = _normal(shadows, held), _normal(shadows, ~held)
    return _log_likelihood(targets, *inside) - _log_likelihood(targets, *outside)


def attack(scores: Tensor, members: Tensor, *, seed: int = 0) -> Attack:
    """How well scores tell members from others.

    Args:
        scores: any shape, higher for members; those that are not finite do not count.
        members: the same shape, bool.
        seed: of the bootstrap.
    """
    known = torch.isfinite(scores)
    inside, outside = (scores[known & which].double().numpy() for which in (members, ~members))
    rng = np.random.default_rng(seed)
    drawn = [_measure(_resample(inside, rng), _resample(outside, rng)) for _ in range(RESAMPLES)]
    low, high = np.quantile(np.array(drawn), (0.025, 0.975), axis=0)
    auc, *rates = (Estimate(float(v), float(a), float(b)) for v, a, b in zip(_measure(inside, outside), low, high, strict=True))
    enough = {rate: found if rate * len(outside) >= 1 else None for rate, found in zip(RATES, rates, strict=True)}
    return Attack(auc, enough, len(inside), len(outside))


def area(inside: Floats, outside: Floats) -> float:
    """The probability that a member's score is above a non-member's, ties counting half.

    >>> area(np.array([1.0, 3.0]), np.array([0.0, 1.0]))
    0.875
    """
    from scipy.stats import rankdata  # type: ignore[import-untyped]

    ranks = rankdata(np.concatenate([inside, outside]))
    wins = float(ranks[: len(inside)].sum()) - len(inside) * (len(inside) + 1) / 2
    return wins / (len(inside) * len(outside))


def share_found(inside: Floats, outside: Floats, rate: float) -> float:
    """The share of members above a threshold that at most this share of non-members exceeds.

    >>> share_found(np.array([0.5, 2.0]), np.array([0.0, 1.0]), rate=0.5)  # 1.0 may be mistaken, 0.0 may not
    1.0
    """
    threshold = np.sort(outside)[::-1][int(rate * len(outside))]
    return float((inside > threshold).mean())


def _measure(inside: Floats, outside: Floats) -> list[float]:
    return [area(inside, outside), *(share_found(inside, outside, rate) for rate in RATES)]


def _resample(values: Floats, rng: np.random.Generator) -> Floats:
    return values[rng.integers(len(values), size=len(values))]


def _normal(shadows: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
    """Of the shadows that ``which`` names, for each sample the mean (N,), and one variance."""
    means = (shadows * which).sum(0) / which.sum(0)
    squares = torch.where(which, (shadows - means) ** 2, 0.0).sum()
    free = (which.sum(0) - 1).clamp(min=0).sum()
    return means, squares / free


def _log_likelihood(values: Tensor, means: Tensor, variance: Tensor) -> Tensor:
    return -((values - means) ** 2) / (2 * variance) - variance.log() / 2
