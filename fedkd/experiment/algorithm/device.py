"""Where tensors are: on a GPU, or on the CPU."""

from __future__ import annotations

import torch

from fedkd.base.errors import InputError
from fedkd.experiment.algorithm.sections import Engine


def device_of(engine: Engine) -> torch.device:
    """A GPU where the engine asks for a share of one; else the CPU. Raises InputError where there is none."""
    if not engine.num_gpus:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError("engine.num_gpus: this machine has no GPU that torch can use: set it to 0")
    return torch.device("cuda")
