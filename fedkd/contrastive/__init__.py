"""Self-supervised bases: what a federated unsupervised method descends locally. One object a file."""

from fedkd.contrastive.base import Base, Views
from fedkd.contrastive.byol import BYOL
from fedkd.contrastive.divergence_aware import DivergenceAwarePredictor
from fedkd.contrastive.divergence_mixed import DivergenceAwareAverage
from fedkd.contrastive.moco import MoCo
from fedkd.contrastive.protocl import ProtoCL
from fedkd.contrastive.registry import BASES, make_base
from fedkd.contrastive.simclr import SimCLR

__all__ = [
    "BASES",
    "BYOL",
    "Base",
    "DivergenceAwareAverage",
    "DivergenceAwarePredictor",
    "MoCo",
    "ProtoCL",
    "SimCLR",
    "Views",
    "make_base",
]
