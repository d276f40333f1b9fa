"""What peers computed of one batch, as each of them is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

#: What a peer computes of a batch, by name: (B, ...) each.
PeerOutputs = Mapping[str, Tensor]


@final
@dataclass(frozen=True)
class AllOutputs:
    """The outputs of all peers for one batch, by id and not by arrival; constants."""

    ids: tuple[int, ...]  # K of them, in order
    me: int
    tensors: Mapping[str, Tensor]  # (K, B, ...) each
    beside: Mapping[str, Tensor]  # what the server added, of any shape

    def others(self, name: str) -> Tensor:
        """The outputs of all but me. (K - 1, B, ...)"""
        tensor = self.tensors[name]
        if self.me not in self.ids:
            return tensor
        place = self.ids.index(self.me)
        return torch.cat([tensor[:place], tensor[place + 1 :]])  # a copy: a broadcast's tensors are everybody's

    def with_mine(self, name: str, mine: Tensor) -> Tensor:
        """The outputs of all, with the graph of mine (B, ...) in my place. (K, B, ...)

        A function of all outputs has the same gradient in mine as if all peers were trained together. Its value is the same at
        all peers, to the bit: mine counts as the others received it, where codecs lose something.
        """
        outputs = zip(self.ids, self.tensors[name], strict=True)
        return torch.stack([theirs + (mine - mine.detach()) if peer == self.me else theirs for peer, theirs in outputs])
