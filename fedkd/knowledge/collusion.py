"""Collusion: hostile clients see what the honest ones upload in an exchange, and all send one answer made of that.

Roux, Zimmer and Pokutta, "On the Byzantine-Resilience of Distillation-Based Federated Learning", ICLR 2025, arXiv 2402.12265,
by their official code. There clients send probabilities. Logits are judged by their softmax; in the place of a row with all
mass on one class, the honest mean row is sent whose largest value changes places with that class's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.knowledge.knowledge import Knowledge

#: The spaces whose rows can be agreed on.
SPACES = ("logits", "probabilities")


@final
@dataclass(frozen=True)
class Collusion:
    """How colluding clients choose their answer, row by row."""

    #: (honest distributions (K, R, C), share of hostile clients) -> (R,): the class that is named, or the client to copy.
    choose: Callable[[Tensor, float], Tensor]
    copies: bool = False  # whether a client is chosen, whose row is sent, and not a class

    def rows(self, honest: Tensor, space: str, share: float) -> Tensor:
        """What all colluding clients send. Honest rows (K, R, C), float32 or better, of one of ``SPACES`` -> (R, C)."""
        chosen = self.choose(honest if space == "probabilities" else honest.softmax(-1), share)
        if self.copies:
            return honest[chosen, torch.arange(honest.shape[1], device=honest.device)]
        if space == "probabilities":
            return F.one_hot(chosen, honest.shape[2]).to(honest)
        mean, named = honest.mean(0), chosen[:, None]
        best = mean.argmax(-1, keepdim=True)
        return mean.scatter(-1, best, mean.gather(-1, named)).scatter(-1, named, mean.gather(-1, best))


def collude(collusion: Collusion, uploads: Mapping[int, Knowledge], hostile: Collection[int]) -> dict[int, Knowledge]:
    """The uploads of an exchange, those of the hostile clients replaced; without an honest one all are as they are.

    What is not a table of ``SPACES``, of one shape at all clients, is sent honestly, as are rows of zeros, which say nothing.
    """
    honest = [upload for client, upload in sorted(uploads.items()) if client not in hostile]
    share = 1 - len(honest) / max(1, len(uploads))
    agreed: dict[str, Tensor] = {}
    for name, tensor in (honest[0].tensors if honest and share else {}).items():
        kinds = {(upload.spaces.get(name), upload.tensors[name].shape) for upload in honest if name in upload.tensors}
        space = honest[0].spaces[name]
        if space in SPACES and tensor.is_floating_point() and tensor.dim() and tensor.numel() and len(kinds) == 1:
            tables = torch.stack([upload.tensors[name] for upload in honest if name in upload.tensors])
            precise = tables.to(torch.promote_types(tables.dtype, torch.float32)).reshape(len(tables), -1, tensor.shape[-1])
            agreed[name] = collusion.rows(precise, space, share).reshape(tensor.shape).to(tensor.dtype)
    return {k: _in_place_of(upload, agreed) if k in hostile else upload for k, upload in uploads.items()}


def _in_place_of(upload: Knowledge, agreed: Mapping[str, Tensor]) -> Knowledge:
    """An upload with the tensors that were agreed on, where it has such."""
    changed = dict(upload.tensors)
    for name, rows in agreed.items():
        own = changed.get(name)
        if own is not None and (own.shape, own.dtype) == (rows.shape, rows.dtype):
            changed[name] = torch.where((own == 0).all(-1, keepdim=True), 0.0, rows).to(own.dtype)
    return replace(upload, tensors=changed)


def _mean(honest: Tensor) -> Tensor:
    """The mean of the rows (K, R, C) that say something. (R, C)"""
    return honest.sum(0) / (honest != 0).any(-1, keepdim=True).sum(0).clamp_min(1)


def least_likely_of_the_mean(honest: Tensor, share: float) -> Tensor:
    """All mass on the class that the honest clients hold least likely on average; no scale."""
    return _mean(honest).argmin(-1)


def least_similar(honest: Tensor, share: float) -> Tensor:
    """All mass on the class that goes least with the one that the honest clients hold likeliest on average; no scale.

    Which classes go together, the authors read from a file; here it is the covariance of the honest mean over the rows sent.
    """
    mean = _mean(honest)
    centred = mean - mean.mean(0)
    covariance = centred.T @ centred / len(mean)  # (C, C)
    return covariance.argmin(-1)[mean.argmax(-1)]


def most_harmful(honest: Tensor, share: float) -> Tensor:
    """The row of the honest client that draws the mean farthest from the honest one: no outlier among the rows; no scale.

    Of client k: the cross-entropy of the honest mean p with ``share p + (1 - share) p_k``, as in the official code.
    """
    mean = _mean(honest)
    harm = -torch.xlogy(mean, share * mean + (1 - share) * honest).sum(-1)  # (K, R)
    return harm.masked_fill((honest == 0).all(-1), -1.0).argmax(0)
