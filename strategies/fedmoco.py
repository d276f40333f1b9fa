"""FedMoCo: MoCo at the clients, with a queue and a momentum encoder of their own, FedAvg at the server. No labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, final

from pydantic import Field

from fedkd import Positive, Share
from fedkd.methods.contrastive import MoCo
from fedkd.methods.encoders.family import GlobalEncoderStrategy


@final
@dataclass(frozen=True)
class FedMoCo(GlobalEncoderStrategy):
    """Clients train an encoder and a projection head by InfoNCE against the keys of a queue; weights are averaged.

    Paper: He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020, arXiv 1911.05722,
    federated by FedAvg as in the baseline of Han et al., "FedX", ECCV 2022, arXiv 2207.09158.
    What travels: encoder, projection head and buffers, down and up; |θ| elements each. At a client stay its queue, 4 Q
    D bytes, and its key encoder, |θ| elements.
    Deviations: FedSimCLR's, and those of ``fedkd.methods.contrastive.MoCo``. EasyFL's code starts the key encoder of
    each round as the received net: ``resync`` does so.
    """

    temperature: Positive = 0.1  # of InfoNCE; 0.07 in the paper
    queue: Annotated[int, Field(ge=1)] = 256  # keys of the past; a multiple of 2 train.batch_size
    momentum: Share = 0.99  # of the key encoder
    resync: bool = False  # whether the key encoder starts each round as the received net

    paper: ClassVar[str] = "He et al., CVPR 2020, arXiv 1911.05722, with FedAvg"
    sends: ClassVar[str] = "weights and buffers of encoder and projection head, both ways"

    def build_base(self) -> MoCo:
        """What clients descend."""
        return MoCo(self.temperature, self.queue, self.momentum, self.resync)
