"""Numbers that a training which ran away ends in: none, infinite, or larger than any net has."""

from __future__ import annotations

import math

from fedkd.errors import TrainingError
from fedkd.knowledge import Knowledge

#: No weight, logit or feature of a net that trains is larger.
MAX_MAGNITUDE = 1e6
#: No number of the usual kind is larger.
FLOAT32 = 3.4028235e38


def check_finite(knowledge: Knowledge, where: str, *, most: float = MAX_MAGNITUDE) -> None:
    """Check what somebody is about to send, before anything of the work behind it is remembered.

    Minus infinity is legal: a mask of it may be part of a net.

    Raises:
        TrainingError: the first tensor that is no result of a training.
    """
    for name, tensor in knowledge.tensors.items():
        if tensor.is_floating_point() and tensor.numel():
            low, high = map(float, tensor.aminmax())
            if not high <= most or -math.inf < low < -most:
                held = f"{max(low, high, key=abs):g}, beyond {most:g}" if math.isfinite(high) else "a value that is not finite"
                raise TrainingError(f"{where}: {name} holds {held}; lower train.lr or set train.clip")
