"""Losses: pure functions on tensors, one idea a file. Every name in ``__all__`` returns a scalar tensor ``()``.

All of them compute in at least float32 whatever the inputs' type and whatever autocast region they are called from;
float64 stays float64.
"""

from fedkd.losses.cross_entropy import cross_entropy_loss
from fedkd.losses.nt_xent import nt_xent_loss
from fedkd.losses.proximal import proximal_term
from fedkd.losses.relational import relational_loss

__all__ = ["cross_entropy_loss", "nt_xent_loss", "proximal_term", "relational_loss"]
