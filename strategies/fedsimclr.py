"""FedSimCLR: SimCLR at the clients, FedAvg at the server. No labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from fedkd import Positive
from fedkd.methods.contrastive import SimCLR
from fedkd.methods.encoders.family import GlobalEncoderStrategy


@final
@dataclass(frozen=True)
class FedSimCLR(GlobalEncoderStrategy):
    """Clients train an encoder and a projection head by NT-Xent between two views of each sample; weights are averaged.

    Paper: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020, arXiv
    2002.05709, federated by FedAvg as in the baseline of Han et al., "FedX", ECCV 2022, arXiv 2207.09158.
    What travels: encoder, projection head and buffers, down and up; |θ| elements each.
    Deviations from SimCLR, all as in FedX's repository: temperature 0.1, SGD, a 256-256 projection head without
    BatchNorm, and the views of the ``fedx`` preset unless ``data.views`` says otherwise. The optimiser is new each
    round, as there.
    """

    temperature: Positive = 0.1  # of NT-Xent

    paper: ClassVar[str] = "Chen et al., ICML 2020, arXiv 2002.05709, with FedAvg"
    sends: ClassVar[str] = "weights and buffers of encoder and projection head, both ways"

    def build_base(self) -> SimCLR:
        """What clients descend."""
        return SimCLR(self.temperature)
