"""The guard: every upload is checked before any arithmetic. A bad one costs that client that round, never the round."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

from fedkd.knowledge import Knowledge, TensorSpec

#: A claimed weight may be at most so many times the median of the round's weights.
MAX_WEIGHT_RATIO = 10.0


class Rejected(ValueError):
    """An upload that must not be used; the message is the reason shown in the metrics."""


def check_upload(upload: Knowledge, schema: Mapping[str, TensorSpec], *, round: int, exchange: int) -> None:
    """Check names, dtypes, exact shapes, spaces, finiteness, round and weight of one upload.

    Raises:
        Rejected: with the first reason found.
    """
    if (upload.header.get("round"), upload.header.get("exchange")) != (round, exchange):
        raise Rejected(f"it answers round {upload.header.get('round')}, exchange {upload.header.get('exchange')}")
    if upload.tensors.keys() != schema.keys():
        odd = sorted(upload.tensors.keys() ^ schema.keys())[:3]
        raise Rejected(f"its tensors are not those of the schema: {', '.join(odd)} missing or unexpected")
    for name, spec in schema.items():
        tensor = upload.tensors[name]
        if tuple(tensor.shape) != spec.shape:
            raise Rejected(f"{name} has shape {tuple(tensor.shape)}, expected {spec.shape}")
        if tensor.dtype != spec.dtype:
            raise Rejected(f"{name} has dtype {tensor.dtype}, expected {spec.dtype}")
        if upload.spaces[name] != spec.space:
            raise Rejected(f"{name} holds {upload.spaces[name]}, expected {spec.space}")
        if tensor.is_floating_point() and tensor.numel() and not all(map(math.isfinite, map(float, tensor.aminmax()))):
            raise Rejected(f"{name} holds a value that is not finite")
    if not (math.isfinite(upload.weight) and upload.weight > 0):
        raise Rejected(f"its weight {upload.weight} is not a positive number")


def too_heavy(uploads: Mapping[int, Knowledge]) -> dict[int, str]:
    """Clients that claim more than ``MAX_WEIGHT_RATIO`` times the round's median weight -> the reason."""
    reasons: dict[int, str] = {}
    if len(uploads) < 3:  # with two, nobody can tell who lies
        return reasons
    median = statistics.median(upload.weight for upload in uploads.values())
    for client, upload in uploads.items():
        if upload.weight > MAX_WEIGHT_RATIO * median:
            reasons[client] = f"it claims a weight of {upload.weight:g}, over {MAX_WEIGHT_RATIO:g} times the median {median:g}"
    return reasons
