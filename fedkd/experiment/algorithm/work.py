"""How training is done at one node, in one round."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from fedkd.data import Moments
from fedkd.experiment.algorithm.sections import Training


@dataclass(frozen=True)
class Work:
    """How training is done here and now: settings, this round's learning rate, device, and who it is, for messages."""

    settings: Training
    lr: float
    device: torch.device
    views: str
    where: str
    moments: Moments | None = None  # what this node normalises by whatever it sees; None: what the samples say

    def autocast(self) -> AbstractContextManager[object]:
        """bf16 or fp16 where asked for; fp32 otherwise."""
        if self.settings.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.float16 if self.settings.precision == "fp16" else torch.bfloat16)
