"""Differential privacy of uploads: noise on tables, noisy votes, one subsample; each with what it guarantees.

Every guarantee holds against whoever sees the uploads, the server included, and only if the noise is secret: a simulation
draws it from the experiment's seed, so whoever knows that seed can take it off again. What of an upload is noised, and what an
experiment's ``epsilon`` covers, stands in ``fedkd.experiment.protection``: all uploads of one client, against neighbours in
which all that this client holds was replaced.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fedkd.base.errors import InputError

#: The units of the guarantees here: what may be exchanged for anything else without the uploads telling.
EVERYTHING_OF_A_CLIENT = "everything that one client holds"
EVERYTHING_OF_A_VOTER = "everything that one voter holds"
A_SAMPLE_OF_A_CLIENT = "one sample of one client"


@final
@dataclass(frozen=True)
class Guarantee:
    """(epsilon, delta)-differential privacy, and of what: the same numbers mean little for a sample and much for a client."""

    epsilon: float
    delta: float
    unit: str


def clip_and_noise(table: Tensor, *, clip: float, noise_multiplier: float, rng: torch.Generator | None) -> Tensor:
    """The Gaussian mechanism on a whole table: its L2 norm is cut to ``clip``, then each element gets N(0, s^2) noise.

    s is ``noise_multiplier * clip``. Dwork and Roth 2014, "The Algorithmic Foundations of Differential Privacy", appendix A.

    Args:
        table: (P, C), any float type and any device; not changed.
        clip: > 0, the largest norm of the P * C elements taken together; of P rows of probabilities it is at most sqrt(P).
        noise_multiplier: >= 0; ``gaussian_epsilon`` turns it into epsilon.
        rng: a CPU generator whose state the receiver cannot know; None: the operating system's randomness, which nobody can
            repeat. (A torch generator has 2^32 states to try, whatever its seed.)

    Returns:
        (P, C) of the table's dtype, no longer on the simplex: ``nearest_on_simplex`` puts it back, at no cost to privacy. What
        is not finite counts as 0, or a net that diverged would show through any noise.
    """
    precise = table.to(torch.promote_types(table.dtype, torch.float32)).nan_to_num(0.0, 0.0, 0.0)
    norm: Tensor = torch.linalg.vector_norm(precise)  # ()
    clipped = precise / (norm / clip).clamp(min=1)
    noise = _standard_normal(table.shape, precise.dtype, rng).to(table.device)
    return (clipped + noise_multiplier * clip * noise).to(table.dtype)


def _standard_normal(shape: torch.Size, dtype: torch.dtype, rng: torch.Generator | None) -> Tensor:
    if rng is not None:
        return torch.randn(shape, dtype=dtype, generator=rng)
    secret = random.SystemRandom()
    return torch.tensor([secret.gauss(0, 1) for _ in range(shape.numel())], dtype=dtype).view(shape)


def gaussian_epsilon(noise_multiplier: float, releases: int, delta: float) -> float:
    """The epsilon of one client that sent so many tables through ``clip_and_noise``, by Rényi accounting.

    The unit is ``EVERYTHING_OF_A_CLIENT``, and neighbours are two worlds in which that was replaced (local differential
    privacy): a table is any function of all that the client holds and of what it received, so other data may give any other
    table. Two tables of norm at most ``clip`` are up to 2 ``clip`` apart, hence the noise is ``noise_multiplier / 2``
    sensitivities. A client that sits a round out gains nothing by chance:
    the server sees who uploads, so there is no amplification by sampling. Count the tables that the client did send.

    Args:
        noise_multiplier: >= 0, as given to ``clip_and_noise``.
        releases: >= 0, tables sent by the client; each may depend on all before.
        delta: in (0, 1).

    Returns:
        epsilon; infinite without noise, 0 without a release.
    """
    return _gaussian_epsilon(noise_multiplier / 2, releases, delta)


def noisy_votes(votes: Tensor, classes: int, *, scale: float, rng: torch.Generator) -> Tensor:
    """The plurality of noisy counts, GNMax: Papernot et al. 2018, arXiv 1802.08908, section 4.1::

        label_p = argmax_c ( number of voters for c on sample p + N(0, scale^2) )

    Args:
        votes: (K, P) int64, a class id of each voter for each sample; -1 where it abstains.
        classes: C.
        scale: >= 0, the noise's standard deviation in votes.
        rng: a CPU generator whose state the receiver cannot know.

    Returns:
        (P,) int64 class ids.

    Raises:
        InputError: a vote is no class id.

    >>> votes = torch.tensor([[2, 0], [2, 1], [0, 1]])
    >>> noisy_votes(votes, 3, scale=0.0, rng=torch.Generator()).tolist()
    [2, 1]
    """
    if votes.numel() and not -1 <= int(votes.min()) <= int(votes.max()) < classes:
        raise InputError(f"votes lie in {int(votes.min())} .. {int(votes.max())}: write 0 .. {classes - 1}, or -1 to abstain")
    noise = torch.randn(votes.shape[1], classes, dtype=torch.float64, generator=rng).to(votes.device)  # (P, C)
    counts = noise.new_zeros(votes.shape[1], classes + 1)  # (P, 1 + C), abstentions first
    counts.scatter_add_(1, votes.T + 1, torch.ones_like(votes.T, dtype=counts.dtype))
    return (counts[:, 1:] + scale * noise).argmax(1)


def noisy_votes_epsilon(scale: float, queries: int, delta: float) -> float:
    """The epsilon of so many labels by ``noisy_votes``, by Rényi accounting that does not look at the votes.

    The unit is ``EVERYTHING_OF_A_VOTER``: one vote that changes lowers one count by 1 and raises another, sqrt(2) apart in
    L2. A party with several voters has as many changes. The counts must stay secret; only labels are released.

    Args:
        scale: >= 0, as given to ``noisy_votes``.
        queries: >= 0, samples labelled, over all rounds.
        delta: in (0, 1).

    Returns:
        epsilon; infinite without noise, 0 without a query.
    """
    return _gaussian_epsilon(scale / math.sqrt(2), queries, delta)


def _gaussian_epsilon(noise: float, releases: int, delta: float) -> float:
    """Composed Gaussian mechanisms whose noise is so many sensitivities wide."""
    from dp_accounting import GaussianDpEvent
    from dp_accounting.rdp import RdpAccountant

    if noise < 0 or releases < 0 or not 0 < delta < 1:
        raise ValueError(f"noise {noise} and releases {releases} must be at least 0, delta {delta} between 0 and 1")
    if releases == 0:
        return 0.0
    return float(RdpAccountant().compose(GaussianDpEvent(noise), releases).get_epsilon(delta))


def subsample_once(n: int, k: int, rng: torch.Generator, *, replacement: bool = False) -> Tensor:
    """The positions of the k of n samples that a client trains on in the whole run, (k,) int64 in 0 .. n - 1.

    Keep them: a second draw would compose, and void ``subsample_guarantee``.

    Raises:
        InputError: there are not that many samples, or k is not at least 1.
    """
    if k < 1 or (k > n and not replacement):
        raise InputError(f"a subsample of {k} of a client's {n} samples is impossible: take 1 to {n}")
    return torch.randint(n, (k,), generator=rng) if replacement else torch.randperm(n, generator=rng)[:k]


def subsample_guarantee(n: int, k: int, *, replacement: bool = False) -> Guarantee:
    """What a client's uploads guarantee that depend on ``subsample_once`` of its data alone; no noise is needed.

    Sun and Lyu, "Federated Model Distillation with Noise-Free Differential Privacy", IJCAI 2021, arXiv 2009.05537::

        without replacement: epsilon = log((n + 1) / (n + 1 - k)),  delta = k / n
        with replacement:    epsilon = k log((n + 1) / n),          delta = 1 - ((n - 1) / n)^k

    Delta is the chance that a given sample is drawn at all, which is not small: read it beside epsilon. Choosing a round or a
    hyperparameter on samples outside the subsample spends what this does not count.

    >>> guarantee = subsample_guarantee(50_000, 5_000)
    >>> round(guarantee.epsilon, 5), guarantee.delta
    (0.10536, 0.1)
    """
    if replacement:
        return Guarantee(k * math.log1p(1 / n), 1 - (1 - 1 / n) ** k, A_SAMPLE_OF_A_CLIENT)
    return Guarantee(math.log((n + 1) / (n + 1 - k)), k / n, A_SAMPLE_OF_A_CLIENT)


def largest_subsample(n: int, epsilon: float, *, replacement: bool = False) -> int:
    """The largest k whose ``subsample_guarantee`` is at most this epsilon; 0 where one sample costs more.

    Without replacement floor((n + 1) (1 - exp(-epsilon))) and at most n, with it floor(epsilon / log((n + 1) / n)).

    >>> largest_subsample(50_000, 0.10537)
    5000
    """
    exact = epsilon / math.log1p(1 / n) if replacement else min(n, -(n + 1) * math.expm1(-epsilon))
    nearest = round(exact)  # rounding must not cost the k whose epsilon is asked for
    fits = nearest <= exact or subsample_guarantee(n, nearest, replacement=replacement).epsilon <= epsilon
    return nearest if fits else nearest - 1
