"""Distillers that remember embeddings of earlier steps: banks with a row a sample (CRD), a queue (SEED)."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.losses.distillers.distiller import Distiller, Pairing, Shown
from fedkd.nets import Outputs, features_of

#: Embeddings that the queue holds; 65,536 in SEED's code, for data sets of millions.
QUEUE = 4096


@final
class OnBanks(Distiller):
    """A module over a bank of every sample's embeddings: ``module(student's features, teacher's, positions in the bank)``."""

    ids: Tensor

    def __init__(self, make: Callable[..., nn.Module], pairing: Pairing) -> None:
        super().__init__()
        ids, order = pairing.ids.sort()
        self.register_buffer("ids", ids, persistent=False)
        sizes = (features_of(pairing.student).shape[1], features_of(pairing.teacher).shape[1])
        self.module = make(*sizes, samples=len(ids), labels=pairing.labels[order])

    def forward(self, student: Outputs, teacher: Outputs, shown: Shown) -> Tensor:
        """The module's value; its banks then know this step's embeddings."""
        positions = torch.searchsorted(self.ids, shown.ids.to(self.ids.device))  # (B,)
        loss: Tensor = self.module(features_of(student), features_of(teacher), positions)
        return loss


@final
class OnQueue(Distiller):
    """``function(student's features in the teacher's width, teacher's features, queue)``; the queue starts at random."""

    queue: Tensor

    def __init__(self, function: Callable[[Tensor, Tensor, Tensor], Tensor], pairing: Pairing) -> None:
        super().__init__()
        own, width = features_of(pairing.student).shape[1], features_of(pairing.teacher).shape[1]
        self._function = function
        self.map = nn.Linear(own, width)
        self.register_buffer("queue", F.normalize(torch.randn(QUEUE, width), dim=1))

    def forward(self, student: Outputs, teacher: Outputs, shown: Shown) -> Tensor:
        """The function's value; the teacher's features then stand at the head of the queue, for the oldest ones."""
        taught = features_of(teacher)
        loss = self._function(self.map(features_of(student)), taught, self.queue)
        self.queue = torch.cat([F.normalize(taught.detach().to(self.queue.dtype), dim=1), self.queue])[: len(self.queue)]
        return loss
