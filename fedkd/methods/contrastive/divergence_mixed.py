"""FedEMA's base: BYOL whose online net is mixed with the global one, the more of its own the farther its training moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.fields import NonNegative, Share
from fedkd.methods.contrastive.divergence import DIVERGENCE, DivergenceAware, kernels, weight_divergence
from fedkd.methods.contrastive.target_net import TRAINED
from fedkd.nets import Net, load

#: Where a client's memory holds the first divergence above 0, to which tau goes.
FIRST = "first_divergence"


@final
@dataclass(frozen=True)
class DivergenceAwareAverage(DivergenceAware):
    """Zhuang et al., "Divergence-aware Federated Self-Supervised Learning", ICLR 2022, arXiv 2204.04385.

    Parameters of encoder, projection and predictor, of a client that trained in the round before::

        online <- lambda local + (1 - lambda) global,   lambda = min(1, scale * divergence)

    A client that sat out takes all of the global net, and starts a new target from it, as EasyFL's code does where clients
    are drawn. With ``scale`` 0 it is tau over the client's first divergence (the paper's autoscaler), so lambda starts at tau.
    Buffers are the global ones; EasyFL takes those of the predictor from the side with the larger share. Other heads, as
    FedX's, are the global ones.
    """

    tau: Share = 0.7  # lambda at the client's first return; 0.7 in the paper, 0.8 the default of EasyFL's code
    scale: NonNegative = 0.0  # of the divergence; 0 = tau over the client's first one
    divergence: Literal["training", "global"] = "training"  # moved by the last training (EasyFL's code); global - local (paper)

    def merge(self, client: Client, net: Net, weights: Mapping[str, Tensor]) -> None:
        """Mix, or overwrite all after a round without this client."""
        share = self.local_share(client, self.measure(client, net, weights))
        if int(client.memory[TRAINED]) + 1 != client.round:
            del client.memory[TRAINED]  # ``target`` then starts anew
            share = 0.0
        mixed = ("encoder.", *(f"heads.{head}." for head in self.heads))
        own = {name: tensor.detach().clone() for name, tensor in net.named_parameters() if name.startswith(mixed)}
        load(net, weights)
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                if name in own:
                    parameter.lerp_(own[name], share)

    def measure(self, client: Client, net: Net, weights: Mapping[str, Tensor]) -> float:
        """The divergence that lambda goes by."""
        if self.divergence == "training":
            return float(client.memory[DIVERGENCE])
        own = {name: weight for name, weight in kernels(net.encoder).items() if f"encoder.{name}" in weights}
        return weight_divergence(own, {name: weights[f"encoder.{name}"].to(own[name].device) for name in own})

    def local_share(self, client: Client, divergence: float) -> float:
        """lambda; 0 so long as nothing diverged. The client's first divergence is kept."""
        if divergence > 0:
            client.memory.setdefault(FIRST, divergence)
        scale = self.scale or self.tau / float(client.memory.get(FIRST, 1.0))
        return min(1.0, scale * divergence)
