"""The server's test set, as it travels beside a broadcast to clients that have nets of their own, to be scored there."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedkd.base.inputs import Inputs, each
from fedkd.data import Samples
from fedkd.data.own import OwnAtClient
from fedkd.experiment.algorithm.client import Client
from fedkd.knowledge.knowledge import Knowledge

LABELS, INPUTS = "test labels", "test inputs"


def with_test(knowledge: Knowledge, test: Samples) -> Knowledge:
    """The broadcast with these samples and their labels."""
    inputs, labels, _ = test.take(torch.arange(len(test)))
    named = {f"{INPUTS}/{name}": t for name, t in inputs.items()} if isinstance(inputs, Mapping) else {INPUTS: inputs}
    travelling = {name: t.view(torch.int16) if t.dtype == torch.uint16 else t for name, t in named.items()}  # the same bits
    return knowledge.with_tensors("samples", travelling).with_tensors("labels", {LABELS: labels})


def split_test(received: Knowledge, client: Client) -> Knowledge:
    """The broadcast alone; the test set that ``with_test`` joined to it is what the client is scored on."""
    if LABELS not in received.tensors:
        return received
    assert isinstance(client.federation, OwnAtClient)
    parts = {name: tensor for name, tensor in received.tensors.items() if name.startswith((LABELS, INPUTS))}
    labels, like = parts.pop(LABELS), client.federation.source.train_inputs
    inputs: Inputs = {n.removeprefix(f"{INPUTS}/"): t for n, t in parts.items()} if INPUTS not in parts else parts[INPUTS]
    if isinstance(like, Tensor) and like.dtype == torch.uint16:
        inputs = each(lambda tensor: tensor.view(torch.uint16), inputs)
    client.federation = client.federation.tested_on(inputs, labels)
    rest = {name: tensor for name, tensor in received.tensors.items() if name != LABELS and name not in parts}
    return Knowledge(rest, {name: received.spaces[name] for name in rest}, received.header)
