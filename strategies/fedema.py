"""FedEMA: BYOL at clients who mix the global net into their own, less the farther their training moves. No labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

from fedkd import NonNegative, Share
from fedkd.experiment.algorithm.conditions import Idle, When
from fedkd.methods.contrastive import DivergenceAwareAverage
from fedkd.methods.encoders.family import GlobalEncoderStrategy


@final
@dataclass(frozen=True)
class FedEMA(GlobalEncoderStrategy):
    """FedBYOL in which a client goes on from ``lambda own + (1 - lambda) global``, lambda = min(1, scale * divergence).

    Paper: Zhuang et al., "Divergence-aware Federated Self-Supervised Learning", ICLR 2022, arXiv 2204.04385.
    What travels: encoder, projection head, predictor and buffers, down and up; |θ| elements each. At a client stay its
    online net, |θ| elements, its target net, encoder and projection, and its first and last divergence.
    The divergence is by default EasyFL's, how far the client's last training moved the kernels of its encoder; the
    paper's is the distance between the client's and the global encoder.
    Deviations: FedSimCLR's, and those of ``fedkd.methods.contrastive.DivergenceAwareAverage``, ``DivergenceAware`` and
    ``TargetNet``. EasyFL sends the target nets too, and does not use them.
    """

    momentum: Share = 0.99  # of the target net
    tau: Share = 0.7  # lambda at a client's first return
    scale: NonNegative = 0.0  # of the divergence; 0 = tau over the client's first one
    divergence: Literal["training", "global"] = "training"  # EasyFL's or the paper's

    paper: ClassVar[str] = "Zhuang et al., ICLR 2022, arXiv 2204.04385"
    sends: ClassVar[str] = "weights and buffers of encoder, projection head and predictor, both ways"
    idle: ClassVar[Idle] = {"tau": (When("scale", 0),)}

    def build_base(self) -> DivergenceAwareAverage:
        """What clients descend."""
        return DivergenceAwareAverage(self.momentum, self.tau, self.scale, self.divergence)
