"""BYOL: a predicted target net, and global weights that overwrite the online net."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from fedkd.experiment.algorithm.client import Client
from fedkd.methods.contrastive.target_net import TargetNet, TargetState
from fedkd.nets import Net


@final
@dataclass(frozen=True)
class BYOL(TargetNet[TargetState]):
    """Grill et al., "Bootstrap Your Own Latent", NeurIPS 2020, arXiv 2006.07733.

    Deviations: those of ``TargetNet``; the momentum is constant, and all heads are 256 wide.
    """

    def start(self, client: Client, net: Net) -> TargetState:
        """The target net."""
        return TargetState(self.target(client, net))
