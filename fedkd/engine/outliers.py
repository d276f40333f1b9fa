"""Uploads that stand out from the others of their round: by the weight that they claim, or by how far they move the net.

Each compares with the round's median, which half of the clients would have to agree to shift. Of fewer than three uploads
nobody can tell which one stands out.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

import torch

from fedkd.knowledge.knowledge import Knowledge

FEWEST = 3


def too_heavy(uploads: Mapping[int, Knowledge], ratio: float = 10.0) -> dict[int, str]:
    """Clients that claim more than ``ratio`` times the round's median weight -> the reason.

    >>> list(too_heavy({client: Knowledge(weight=weight) for client, weight in enumerate([1, 1, 11])}, 10.0))
    [2]
    """
    weights = {client: upload.weight for client, upload in uploads.items()}
    median = statistics.median(weights.values()) if len(weights) >= FEWEST else math.inf
    return {
        client: f"it claims a weight of {weight:g}, over guard.weight_ratio = {ratio:g} times the median {median:g} "
        "(0 takes any weight: for clients of very unequal sizes)"
        for client, weight in weights.items()
        if weight > ratio * median
    }


def too_far(uploads: Mapping[int, Knowledge], sent: Mapping[int, Knowledge], ratio: float) -> dict[int, str]:
    """Clients that moved the weights which they were sent more than ``ratio`` times as far as the round's median -> why.

    Where no such weights are sent down, the upload itself is the step (changes, say). Uploads without weights have none.
    """
    steps = {client: step_of(upload, sent[client]) for client, upload in uploads.items()}
    moved = {client: step for client, step in steps.items() if step is not None}
    median = statistics.median(moved.values()) if len(moved) >= FEWEST else 0.0
    return {
        client: f"its step of {step:g} is over guard.step_ratio = {ratio:g} times the median {median:g}"
        for client, step in moved.items()
        if median and step > ratio * median
    }


def step_of(upload: Knowledge, sent: Knowledge) -> float | None:
    """The Euclidean norm of the change of all floating weights; None for an upload that has none.

    >>> weights = {"w": torch.tensor([3.0, 0.0])}
    >>> step_of(Knowledge.of("weights", weights), Knowledge.of("weights", {"w": torch.tensor([0.0, 4.0])}))
    5.0
    """
    squares = []
    for name, tensor in upload.tensors.items():
        if upload.spaces[name] == "weights" and tensor.is_floating_point():
            before = sent.tensors.get(name)
            known = before is not None and before.shape == tensor.shape and sent.spaces[name] == "weights"
            change = tensor.float() - before.float() if known and before is not None else tensor.float()
            moved = change[change.isfinite()]  # a mask of minus infinities has not moved
            squares.append(float(torch.linalg.vector_norm(moved)) ** 2)
    return math.sqrt(sum(squares)) if squares else None
