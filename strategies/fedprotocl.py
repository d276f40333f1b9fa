"""FedProtoCL: prototypical contrastive learning at the clients, whose prototypes stay there; FedAvg at the server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, final

from pydantic import Field

from fedkd import Listed, NonNegative, Positive, Share
from fedkd.experiment.algorithm.conditions import Idle, Within
from fedkd.methods.contrastive import ProtoCL
from fedkd.methods.encoders.family import GlobalEncoderStrategy


@final
@dataclass(frozen=True)
class FedProtoCL(GlobalEncoderStrategy):
    """Clients train by InfoNCE with a queue and by telling a view's own prototype from others; weights are averaged.

    Paper: Li et al., "Prototypical Contrastive Learning of Unsupervised Representations", ICLR 2021, arXiv 2005.04966,
    federated by FedAvg as in the baseline of Han et al., "FedX", ECCV 2022, arXiv 2207.09158.
    What travels: encoder, projection head and buffers, down and up; |θ| elements each. At a client stay its queue, 4 Q
    D bytes, its key encoder, |θ| elements, and its prototypes, made anew in each epoch.
    Known to be unstable: on SVHN FedX's paper has it at 49.9 % where FedSimCLR reaches 75.2 %; with FedX on top 69.3 %.
    Deviations: FedSimCLR's, and those of ``fedkd.methods.contrastive.ProtoCL``.
    """

    temperature: Positive = 0.1  # of InfoNCE, and the mean of the prototypes' own; 0.2 in the official code
    prototypes: Annotated[tuple[int, ...], Listed] = (8, 16, 32)  # how many, in each of the clusterings
    momentum: Share = 0.99  # of the key encoder; 0.999 in the official code
    alpha: NonNegative = 10.0  # the larger, the less a small cluster counts as widely spread
    warm_up: Annotated[int, Field(ge=0)] = 1  # first rounds without prototypes
    queue: Annotated[int, Field(ge=1)] = 256  # past keys; a multiple of 2 train.batch_size, no more than an epoch's

    paper: ClassVar[str] = "Li et al., ICLR 2021, arXiv 2005.04966, with FedAvg"
    sends: ClassVar[str] = "weights and buffers of encoder and projection head, both ways"
    idle: ClassVar[Idle] = {"prototypes": (Within("warm_up"),), "alpha": (Within("warm_up"),)}

    def build_base(self) -> ProtoCL:
        """What clients descend."""
        return ProtoCL(self.temperature, self.prototypes, self.momentum, self.alpha, self.warm_up, self.queue)
