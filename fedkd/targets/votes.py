"""Private aggregation of teacher ensembles by votes: Papernot et al. 2017 and 2018, arXiv 1802.08908, PATE."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.base.errors import unknown
from fedkd.targets.target import Target
from fedkd.targets.teachers import teacher_logits


def votes(logits: Tensor, counts: Tensor | None = None) -> Tensor:
    """How many teachers hold each class for the likeliest::

        n[c] = #{k: argmax z_k = c and counts_k}

    A teacher whose largest logits are equal votes for the first of them.

    Args:
        logits: (K, B, C) of K >= 1 teachers, any float type.
        counts: (K, B) bool, whose vote on what counts; default: every vote.

    Returns:
        (B, C) counts as float32 or better, rows that sum to K, or to as many as count.

    Raises:
        ValueError: logits of another number of dimensions, or of no teacher; counts of another shape.

    >>> votes(torch.tensor([[[1.0, 0.0]], [[0.0, 9.0]], [[2.0, 0.0]]]))
    tensor([[2., 1.]])
    """
    constants = teacher_logits("votes", logits)
    cast = F.one_hot(constants.argmax(-1), logits.shape[-1])  # (K, B, C)
    if counts is not None:
        if counts.shape != logits.shape[:2]:
            raise ValueError(f"votes: counts are {tuple(counts.shape)}; expected {tuple(logits.shape[:2])}")
        cast = cast * counts[..., None]
    return cast.sum(0).to(constants.dtype)


def consistent(logits: Tensor, of_a_party: int) -> Tensor:
    """Where all teachers of a party name the same class: only there do their votes count, FedKT's consistent voting.

    Args:
        logits: (K, B, C), each party's teachers one after the other.
        of_a_party: how many each has; K is a multiple of it.

    Returns:
        (K, B) bool, the same at all teachers of a party.

    >>> consistent(torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]]), 2).tolist()
    [[True, False], [True, False]]
    """
    named = teacher_logits("consistent", logits).argmax(-1)  # (K, B)
    parties = named.reshape(-1, of_a_party, named.shape[1])
    return (parties == parties[:, :1]).all(1).repeat_interleave(of_a_party, 0)


def vote(
    logits: Tensor,
    *,
    noise: float = 0.0,
    distribution: str = "laplace",
    rng: torch.Generator | None = None,
    counts: Tensor | None = None,
    ties: str = "first",
) -> Target:
    """The class of most votes after noise, one-hot: the noisy-max mechanism of PATE::

        argmax_c (n[c] + noise * e[c]),   e of Laplace(1), or of N(0, 1)

    Where the teachers were trained on disjoint private data, one sample's owner changes one vote. What that costs in
    privacy is for an accountant to say, and adds up over samples and over every time that a sample is asked again: keep the
    answers. Of equal counts, the first class wins, or that of the larger mean probability. The noise is pseudo-random
    floating point: fit for experiments, no guard against who reads its low bits. Uses no labels.

    Args:
        logits: (K, B, C) of K >= 1 teachers, any float type.
        noise: its scale, in votes; 0 is a plain majority. PATE's paper has gamma = 1 / noise for Laplace's.
        distribution: "laplace" or "gaussian".
        rng: where the noise comes from; may be left out where there is none.
        counts: as in ``votes``.
        ties: which class wins of equal counts where there is no noise: "first" or "likeliest".

    Returns:
        probabilities (B, C), rows of one 1, float32 or better.

    Raises:
        ValueError: logits of another number of dimensions, or of no teacher; a negative noise, or noise without an rng.
        InputError: an unknown distribution, or unknown ties.

    >>> logits = torch.tensor([[[1.0, 0.0]], [[0.0, 9.0]], [[2.0, 0.0]]])
    >>> vote(logits).probabilities()
    tensor([[1., 0.]])
    >>> many = logits.expand(3, 2000, 2)  # the noise turns 2 : 1 where a difference of two Laplace(1) is above 1: 3 / 4e of all
    >>> share = vote(many, noise=1.0, rng=torch.Generator().manual_seed(0)).probabilities()[:, 1].mean()
    >>> bool((share - 0.2759).abs() < 0.03)
    True
    """
    if ties not in TIES:
        raise unknown("vote: ties", ties, TIES)
    cast = votes(logits, counts)
    noisy = cast + _noise("vote", cast, noise, distribution, rng)
    if ties == "likeliest" and not noise:  # less than a vote: it turns none that is not tied
        noisy = noisy + logits.detach().to(cast.dtype).softmax(-1).mean(0) / 2
    return Target(F.one_hot(noisy.argmax(-1), cast.shape[-1]).to(cast.dtype), "probabilities")


def confident_vote(
    logits: Tensor,
    *,
    threshold: float,
    threshold_noise: float,
    noise: float,
    distribution: str = "gaussian",
    rng: torch.Generator | None = None,
    counts: Tensor | None = None,
    ties: str = "first",
) -> tuple[Target, Tensor]:
    """The noisy vote, and for which samples the teachers agree enough to ask for it: Confident-GNMax::

        confident = max_c n[c] + threshold_noise * e >= threshold
        vote      = argmax_c (n[c] + noise * e[c])                       all e of N(0, 1), or of Laplace(1)

    Only the answers on confident samples may be used, or the accountant counts them in vain. The first test costs privacy on
    every sample, hence its noise is the larger one. Uses no labels.

    Args:
        logits: (K, B, C) of K >= 1 teachers, any float type.
        threshold: in votes.
        threshold_noise: scale of the test's noise, in votes; 0 is none.
        noise: scale of the vote's noise, in votes; 0 is none.
        distribution: "gaussian" or "laplace".
        rng: where the noise comes from; may be left out where there is none.
        counts: as in ``votes``.
        ties: as in ``vote``.

    Returns:
        probabilities (B, C), rows of one 1; and the mask (B,) bool of the confident samples.

    Raises:
        ValueError: as ``vote``.

    >>> logits = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])  # votes 2 : 0 and 1 : 1
    >>> confident_vote(logits, threshold=2, threshold_noise=0.0, noise=0.0)[1]
    tensor([ True, False])
    """
    most = votes(logits, counts).amax(-1)  # (B,)
    confident = most + _noise("confident_vote", most, threshold_noise, distribution, rng) >= threshold
    return vote(logits, noise=noise, distribution=distribution, rng=rng, counts=counts, ties=ties), confident


def _noise(function: str, counts: Tensor, scale: float, distribution: str, rng: torch.Generator | None) -> Tensor:
    """Noise of the counts' shape, drawn where the rng lives."""
    if distribution not in DISTRIBUTIONS:
        raise unknown(f"{function}: distribution", distribution, DISTRIBUTIONS)
    if not scale >= 0:
        raise ValueError(f"{function}: noise {scale} is negative")
    if scale == 0:
        return torch.zeros_like(counts)
    if rng is None:
        raise ValueError(f"{function}: noise needs an rng")
    empty = torch.empty(counts.shape, dtype=torch.float64, device=rng.device)
    return scale * DISTRIBUTIONS[distribution](empty, rng).to(counts)


def _laplace(empty: Tensor, rng: torch.Generator) -> Tensor:
    """The difference of two exponential variables is a Laplace variable."""
    return empty.exponential_(generator=rng) - empty.clone().exponential_(generator=rng)


def _gaussian(empty: Tensor, rng: torch.Generator) -> Tensor:
    return empty.normal_(generator=rng)


#: Which class wins of equal counts.
TIES = ("first", "likeliest")
#: name -> fills a tensor with noise of scale one.
DISTRIBUTIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {"laplace": _laplace, "gaussian": _gaussian}
