"""Attacks: what a hostile client does to its labels or its upload, so that robust aggregation can be measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from fedkd.knowledge.collusion import SPACES, Collusion, least_likely_of_the_mean, least_similar, most_harmful
from fedkd.knowledge.knowledge import Knowledge

#: (honest tensor, what the server sent under that name or None, scale, rng) -> hostile tensor; float32 or better.
Distortion = Callable[[Tensor, Tensor | None, float, torch.Generator], Tensor]


def _keep(labels: Tensor, classes: int, rng: torch.Generator) -> Tensor:
    """Labels as they are."""
    return labels


@final
@dataclass(frozen=True)
class Attack:
    """One attack: how it changes labels before training, and each space of an upload after it.

    A space that an attack does not name is sent honestly, as are integer tensors (votes, counters, ids).
    """

    distortions: Mapping[str, Distortion] = field(default_factory=dict)  # space -> how its tensors are changed
    relabel: Callable[[Tensor, int, torch.Generator], Tensor] = _keep
    scaled: frozenset[str] = frozenset()  # the spaces in which the scale counts
    collusion: Collusion | None = None  # what hostile clients make of the honest uploads, once these are there

    @property
    def relabels(self) -> bool:
        """Whether it changes labels."""
        return self.relabel is not _keep

    @property
    def spaces(self) -> frozenset[str]:
        """The spaces of an upload that it changes."""
        return frozenset([*self.distortions, *(SPACES if self.collusion else ())])

    def labels(self, labels: Tensor, classes: int, rng: torch.Generator) -> Tensor:
        """The labels (n,) that the client trains on, of so many classes; -1 marks a sample without one and stays."""
        return torch.where(labels < 0, labels, self.relabel(labels, classes, rng))

    def upload(self, knowledge: Knowledge, broadcast: Knowledge, *, scale: float, rng: torch.Generator) -> Knowledge:
        """What the client sends in the honest upload's place: the same names, shapes, dtypes and spaces, all finite.

        Rows of probabilities stay on the simplex, and rows of zeros stay zeros. Variances (BatchNorm's ``running_var``) stay
        at least 0: the attack is to bend the mean, not to make it NaN.

        Args:
            knowledge: the honest upload.
            broadcast: what the server sent in this round.
            scale: strength > 0, in the unit that each attack states; some have none.
            rng: a CPU generator.
        """
        hostile = {}
        for name, tensor in knowledge.tensors.items():
            space = knowledge.spaces[name]
            distort = self.distortions.get(space)
            if distort is None or not tensor.is_floating_point() or not tensor.numel():
                hostile[name] = tensor
                continue
            precise = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
            sent = broadcast.tensors.get(name)
            if sent is not None and (broadcast.spaces[name], sent.shape) != (space, tensor.shape):
                sent = None
            changed = distort(precise, None if sent is None else sent.to(precise), scale, rng)
            if space == "probabilities":
                changed = torch.where((tensor == 0).all(-1, keepdim=True), 0.0, changed)
            largest = torch.finfo(tensor.dtype).max
            changed = changed.clamp(0.0 if name.endswith("running_var") else -largest, largest)
            hostile[name] = changed.to(tensor.dtype)
        return replace(knowledge, tensors=hostile)


def _flip(labels: Tensor, classes: int, rng: torch.Generator) -> Tensor:
    """Class c becomes C - 1 - c."""
    return classes - 1 - labels


def _away(tensor: Tensor, sent: Tensor | None, scale: float, rng: torch.Generator) -> Tensor:
    """The honest update, reversed and multiplied by ``scale``; without a tensor to update, the tensor itself."""
    return -scale * tensor if sent is None else sent - scale * (tensor - sent)


def _negate(tensor: Tensor, sent: Tensor | None, scale: float, rng: torch.Generator) -> Tensor:
    """-scale * tensor."""
    return -scale * tensor


def _reverse(rows: Tensor, sent: Tensor | None, scale: float, rng: torch.Generator) -> Tensor:
    """Probabilities in reverse order: max + min - p in each row, renormalised. (..., C) -> (..., C); no scale."""
    mirrored = rows.amax(-1, keepdim=True) + rows.amin(-1, keepdim=True) - rows
    return _to_one(mirrored)


def _noise(tensor: Tensor, sent: Tensor | None, scale: float, rng: torch.Generator) -> Tensor:
    """Gaussian noise on top, ``scale`` times the standard deviation of the tensor's elements."""
    return tensor + scale * tensor.std(correction=0) * _normal(tensor, rng)


def _random_rows(rows: Tensor, sent: Tensor | None, scale: float, rng: torch.Generator) -> Tensor:
    """Random distributions, softmax(scale * N(0, 1)): the larger the scale, the more certain. (..., C) -> (..., C)."""
    return (scale * _normal(rows, rng)).softmax(-1)


def _least_likely(rows: Tensor, sent: Tensor | None, scale: float, rng: torch.Generator) -> Tensor:
    """All mass on the class that the honest row holds least likely. (..., C) -> (..., C); no scale."""
    return torch.zeros_like(rows).scatter(-1, rows.argmin(-1, keepdim=True), 1.0)


def _swap_extremes(rows: Tensor, sent: Tensor | None, scale: float, rng: torch.Generator) -> Tensor:
    """The largest and the smallest value of each row change places. (..., C) -> (..., C); no scale."""
    return _swap(rows, rows.argmax(-1, keepdim=True), rows.argmin(-1, keepdim=True))


def _swap_top_two(rows: Tensor, sent: Tensor | None, scale: float, rng: torch.Generator) -> Tensor:
    """The two largest values of each row change places: the likeliest mistake becomes the answer; no scale."""
    if rows.shape[-1] < 2:
        return rows
    best, second = rows.topk(2, -1).indices.split(1, -1)
    return _swap(rows, best, second)


def _echo(tensor: Tensor, sent: Tensor | None, scale: float, rng: torch.Generator) -> Tensor:
    """What the server sent; zeros where it sent nothing of that name, space and shape; no scale."""
    return torch.zeros_like(tensor) if sent is None else sent


def _echo_rows(rows: Tensor, sent: Tensor | None, scale: float, rng: torch.Generator) -> Tensor:
    """What the server sent; uniform rows where it sent nothing of that name, space and shape. (..., C); no scale."""
    return torch.full_like(rows, 1 / rows.shape[-1]) if sent is None else sent


def _to_one(rows: Tensor) -> Tensor:
    """Rows divided by their sum; rows of zeros stay."""
    sums = rows.sum(-1, keepdim=True)
    return rows / torch.where(sums > 0, sums, 1.0)


def _normal(like: Tensor, rng: torch.Generator) -> Tensor:
    """Standard normal numbers, drawn on the CPU so that they are the same on every device."""
    return torch.randn(like.shape, dtype=like.dtype, generator=rng).to(like.device)


def _swap(rows: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """The values at two positions (..., 1) of each row (..., C) change places."""
    return rows.scatter(-1, one, rows.gather(-1, other)).scatter(-1, other, rows.gather(-1, one))


#: Name of an attack, as ``attack.name`` has it -> the attack.
ATTACKS: dict[str, Attack] = {
    "label_flip": Attack(relabel=_flip),
    "sign_flip": Attack(
        {"weights": _away, "logits": _negate, "embedding": _negate, "samples": _negate, "probabilities": _reverse},
        scaled=frozenset({"weights", "logits", "embedding", "samples"}),
    ),
    "noise": Attack(
        {"weights": _noise, "logits": _noise, "embedding": _noise, "samples": _noise, "probabilities": _random_rows},
        scaled=frozenset({"weights", "logits", "embedding", "samples", "probabilities"}),
    ),
    "least_likely_class": Attack({"logits": _swap_extremes, "probabilities": _least_likely}),
    "similar_class": Attack({"logits": _swap_top_two, "probabilities": _swap_top_two}),
    "free_rider": Attack(
        {"weights": _echo, "logits": _echo, "embedding": _echo, "samples": _echo, "probabilities": _echo_rows}
    ),
    "lma": Attack(collusion=Collusion(least_likely_of_the_mean)),  # loss maximisation attack
    "cpa": Attack(collusion=Collusion(least_similar)),  # class prior attack
    "hips": Attack(collusion=Collusion(most_harmful, copies=True)),  # hiding in plain sight
}
