"""Self-supervised bases: what a federated unsupervised method descends locally. One object a file."""

from fedkd.contrastive.base import Base, Views
from fedkd.contrastive.moco import MoCo
from fedkd.contrastive.registry import BASES, make_base
from fedkd.contrastive.simclr import SimCLR

__all__ = ["BASES", "Base", "MoCo", "SimCLR", "Views", "make_base"]
