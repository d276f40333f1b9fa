"""Self-supervised bases: what a federated unsupervised method descends locally. An object each: start, loss, after_step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fedkd.client import Client
from fedkd.losses import nt_xent_loss
from fedkd.nets import Net


@dataclass(frozen=True)
class Views:
    """What one forward pass of a batch gave: projections z of the two views of B images."""

    first: Tensor  # (B, 256)
    second: Tensor  # (B, 256)


class Base(ABC):
    """A self-supervised objective. Subclasses are final, frozen dataclasses of hyperparameters."""

    @abstractmethod
    def start(self, client: Client, net: Net) -> Any:
        """What the base needs beside the net in one local training (a momentum encoder, a queue), or an empty mapping."""

    @abstractmethod
    def loss(self, state: Any, views: Views) -> Mapping[str, Tensor]:
        """Its loss parts by name. Gradient: through both views."""

    @abstractmethod
    def after_step(self, state: Any, net: Net) -> None:
        """What moves after each optimiser step."""


@dataclass(frozen=True)
class SimCLR(Base):
    """Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020, arXiv 2002.05709."""

    temperature: float = 0.1

    def start(self, client: Client, net: Net) -> Mapping[str, Tensor]:
        """SimCLR needs nothing beside the net."""
        return {}

    def loss(self, state: Mapping[str, Tensor], views: Views) -> Mapping[str, Tensor]:
        """NT-Xent between the two views."""
        return {"local_contrastive": nt_xent_loss(views.first, views.second, temperature=self.temperature)}

    def after_step(self, state: Mapping[str, Tensor], net: Net) -> None:
        """Nothing moves."""


#: Name of a base, as FedX's ``base`` field has it -> the base, made from a temperature.
BASES: dict[str, Callable[[float], Base]] = {"simclr": SimCLR}
