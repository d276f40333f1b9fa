"""FedU's base: BYOL whose predictor stays a client's own while its training moves far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor

from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.fields import NonNegative
from fedkd.methods.contrastive.divergence import DIVERGENCE, DivergenceAware
from fedkd.nets import Net, load

PREDICTOR = "heads.target_prediction."


@final
@dataclass(frozen=True)
class DivergenceAwarePredictor(DivergenceAware):
    """Zhuang et al., "Collaborative Unsupervised Visual Representation Learning ...", ICCV 2021, arXiv 2108.06492.

    The global encoder and projection overwrite the client's; so does the predictor if the divergence of the client's last
    training is below mu, else the client keeps its own, with its BatchNorm statistics (DAPU).
    """

    mu: NonNegative = 0.4  # 0 always keeps the own predictor; the divergence grows with lr, epochs and width of the net

    def merge(self, client: Client, net: Net, weights: Mapping[str, Tensor]) -> None:
        """Overwrite all, but perhaps the predictor."""
        own = {name: tensor for name, tensor in net.state_dict().items() if name.startswith(PREDICTOR)}
        near = float(client.memory[DIVERGENCE]) < self.mu
        load(net, weights if near else {**weights, **own})
