"""FedBYOL: BYOL at the clients, whose target nets stay with them, FedAvg at the server. No labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from fedkd import Share
from fedkd.methods.contrastive import BYOL
from fedkd.methods.encoders.family import GlobalEncoderStrategy


@final
@dataclass(frozen=True)
class FedBYOL(GlobalEncoderStrategy):
    """Clients train a net to predict what its moving average projects of another view; weights are averaged.

    Paper: Grill et al., "Bootstrap Your Own Latent", NeurIPS 2020, arXiv 2006.07733, federated by FedAvg as in the
    baseline of Han et al., "FedX", ECCV 2022, arXiv 2207.09158, and in EasyFL's code.
    What travels: encoder, projection head, predictor and buffers, down and up; |θ| elements each. At a client stays its
    target net, encoder and projection.
    Deviations: FedSimCLR's, and those of ``fedkd.methods.contrastive.BYOL``. EasyFL sends the target nets too, and does
    not use them.
    """

    momentum: Share = 0.99  # of the target net

    paper: ClassVar[str] = "Grill et al., NeurIPS 2020, arXiv 2006.07733, with FedAvg"
    sends: ClassVar[str] = "weights and buffers of encoder, projection head and predictor, both ways"

    def build_base(self) -> BYOL:
        """What clients descend."""
        return BYOL(self.momentum)
