"""What peers say of the validation set at a round's beginning, and the shares that it earns them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.server import Server
from fedkd.experiment.algorithm.train import predict
from fedkd.knowledge.knowledge import Knowledge, TensorSpec
from fedkd.methods.lockstep import BESIDE, begin
from fedkd.nets import Net
from fedkd.targets import covariance_weights

#: The tensor of an upload: logits (V, C) of the validation samples. It is not of the exchange's batch.
VALIDATION = BESIDE + "validation"


def held_out_schema(server: Server) -> dict[str, TensorSpec]:
    """(V, C) logits in a round's first exchange, nothing later."""
    shape = (len(server.validation), server.classes)
    return {} if server.exchange else {VALIDATION: TensorSpec(shape, torch.float32, "logits")}


def held_out(client: Client, net: Net) -> Knowledge:
    """In a round's first exchange the net's logits (V, C) of the validation set, in eval mode; nothing later.

    Ask before the net takes its turn: a training pass moves BatchNorm's statistics, and with them what it says here.
    """
    if client.exchange:
        return Knowledge()
    begin(client, net)
    logits = predict(net.eval(), client.validation.samples, client.work())  # (V, C)
    return Knowledge.of("logits", {VALIDATION: logits})


def shares(server: Server, uploads: Mapping[int, Knowledge]) -> Tensor:
    """The shares (K,) of these peers in the mixture of least expected error, by their logits of this round's beginning.

    Who left since then takes its share along: those of the others need not sum to one.
    """
    if server.exchange == 0:
        samples = server.validation.samples
        logits = torch.stack([upload.tensors[VALIDATION] for _, upload in sorted(uploads.items())])  # (K, V, C)
        weights = covariance_weights(logits, samples.labels[samples.indices])
        server.set_live("shares of peers", dict(zip(sorted(uploads), weights.tolist(), strict=True)))
    known: Mapping[int, float] = server.live("shares of peers", dict)
    return torch.tensor([known[peer] for peer in sorted(uploads)])
