"""The server's linear probes, as they travel beside a broadcast in a message that asks a client to evaluate."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from fedkd.engine.evaluation.probe import Probe
from fedkd.knowledge.knowledge import Knowledge

PREFIX = "probe/"


def with_probes(knowledge: Knowledge, probes: Mapping[str, Probe]) -> Knowledge:
    """The broadcast with the tensors of these probes, by name of the predictor that each is fitted to."""
    tensors = {f"{PREFIX}{name}/{part}": t for name, probe in probes.items() for part, t in vars(probe).items()}
    return knowledge.with_tensors("weights", tensors)


def split_probes(received: Knowledge, device: torch.device) -> tuple[Knowledge, dict[str, Probe]]:
    """What ``with_probes`` joined: the broadcast, and the probes on this device."""
    tensors = {name: tensor for name, tensor in received.tensors.items() if not name.startswith(PREFIX)}
    broadcast = Knowledge(tensors, {name: received.spaces[name] for name in tensors}, received.header)
    names = dict.fromkeys(name.split("/")[1] for name in received.tensors if name.startswith(PREFIX))
    parts = {name: [received.tensors[f"{PREFIX}{name}/{part}"].to(device) for part in ("weight", "bias")] for name in names}
    return broadcast, {name: Probe(weight, bias) for name, (weight, bias) in parts.items()}
