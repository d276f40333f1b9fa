"""Self-supervised bases: what a federated unsupervised method descends locally. One object a file."""

from fedkd.methods.contrastive.base import Base, Views
from fedkd.methods.contrastive.byol import BYOL
from fedkd.methods.contrastive.divergence_aware import DivergenceAwarePredictor
from fedkd.methods.contrastive.divergence_mixed import DivergenceAwareAverage
from fedkd.methods.contrastive.moco import MoCo
from fedkd.methods.contrastive.protocl import ProtoCL
from fedkd.methods.contrastive.registry import BASES, WITH_TEMPERATURE, make_base
from fedkd.methods.contrastive.simclr import SimCLR

__all__ = [
    "BASES",
    "BYOL",
    "WITH_TEMPERATURE",
    "Base",
    "DivergenceAwareAverage",
    "DivergenceAwarePredictor",
    "MoCo",
    "ProtoCL",
    "SimCLR",
    "Views",
    "make_base",
]
