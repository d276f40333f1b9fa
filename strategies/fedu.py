"""FedU: BYOL at the clients, who keep their own predictor while their training moves far. No labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from fedkd import NonNegative, Share
from fedkd.methods.contrastive import DivergenceAwarePredictor
from fedkd.methods.encoders.family import GlobalEncoderStrategy


@final
@dataclass(frozen=True)
class FedU(GlobalEncoderStrategy):
    """FedBYOL in which the global predictor is taken over only after a training that moved little.

    Paper: Zhuang et al., "Collaborative Unsupervised Visual Representation Learning from Decentralized Data", ICCV
    2021, arXiv 2108.06492; what the paper leaves open is as in EasyFL's code.
    What travels: encoder, projection head, predictor and buffers, down and up; |θ| elements each. At a client stay its
    online net, |θ| elements, its target net, encoder and projection, and the divergence of its last training.
    Deviations: FedSimCLR's, and those of ``fedkd.methods.contrastive.TargetNet`` and ``DivergenceAware``. EasyFL sends
    the target nets too, and does not use them.
    """

    momentum: Share = 0.99  # of the target net
    mu: NonNegative = 0.4  # the divergence from which on a client keeps its own predictor; 0.4 goes with a ResNet-18

    paper: ClassVar[str] = "Zhuang et al., ICCV 2021, arXiv 2108.06492"
    sends: ClassVar[str] = "weights and buffers of encoder, projection head and predictor, both ways"

    def build_base(self) -> DivergenceAwarePredictor:
        """What clients descend."""
        return DivergenceAwarePredictor(self.momentum, self.mu)
