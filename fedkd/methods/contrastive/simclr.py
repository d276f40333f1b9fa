"""SimCLR: contrast of the two views of a sample with all other samples of the batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor

from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.fields import Positive
from fedkd.losses import nt_xent_loss
from fedkd.methods.contrastive.base import Base, Views
from fedkd.nets import Net


@final
@dataclass(frozen=True)
class SimCLR(Base[None]):
    """Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020, arXiv 2002.05709."""

    temperature: Positive = 0.1  # of NT-Xent

    def start(self, client: Client, net: Net) -> None:
        """SimCLR needs nothing beside the net."""

    def loss(self, state: None, net: Net, views: Views) -> Mapping[str, Tensor]:
        """NT-Xent between the two views. Gradient: through both."""
        return {"local_contrastive": nt_xent_loss(*views.projected.chunk(2), temperature=self.temperature)}
