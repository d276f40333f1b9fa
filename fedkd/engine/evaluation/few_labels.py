"""Which samples keep their labels where only a share of the labels is used."""

from __future__ import annotations

import torch
from torch import Tensor


def stratified(labels: Tensor, share: float, *, generator: torch.Generator) -> Tensor:
    """Positions of a share of each class's samples, at least one of each class that has any, in ascending order.

    Equal generators give nested draws: what a smaller share takes, a larger one takes too.

    Args:
        labels: (N,) int64.
        share: 0 < share <= 1.
        generator: on the CPU.

    >>> labels = torch.tensor([7] * 10 + [3] * 2)
    >>> labels[stratified(labels, 0.3, generator=torch.Generator())].tolist()  # 3 of 10, and 1 as 0.6 is nearest to it
    [7, 7, 7, 3]
    """
    order = torch.randperm(len(labels), generator=generator)
    by_class = [order[labels[order] == each] for each in labels.unique()]
    taken = [positions[: max(1, round(share * len(positions)))] for positions in by_class]
    return torch.cat(taken).sort().values if taken else order


def percent_key(share: float) -> str:
    """A share as a name of a metric has it.

    >>> percent_key(0.01), percent_key(0.07), percent_key(0.005)
    ('1_percent', '7_percent', '0_5_percent')
    """
    return f"{100 * share:g}_percent".replace(".", "_")
