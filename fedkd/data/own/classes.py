"""Labels by name: what a node calls class 2 may be another's class 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedkd.base.errors import InputError
from fedkd.data.layout import some
from fedkd.data.source import Source


def in_classes(source: Source, classes: Sequence[str]) -> Source:
    """The source with its labels counted in these classes; it need not have samples of all.

    Raises:
        InputError: it has samples of a class that is none of them.
    """
    number = {name: place for place, name in enumerate(classes)}
    labels = torch.cat([source.train_labels, source.test_labels])
    held = [source.classes[place] for place in torch.unique(labels[labels >= 0]).tolist()]
    if strange := [name for name in held if name not in number]:
        cure = "rename them there, or name them in data.classes"
        raise InputError(
            f"data source {source.name!r} has classes {some(strange)}, the run's are {some(list(classes))}: {cure}"
        )
    table = torch.tensor([*(number.get(name, -1) for name in source.classes), -1])  # -1 finds the last

    def renumbered(labels: Tensor) -> Tensor:
        return table[labels]

    train, test = renumbered(source.train_labels), renumbered(source.test_labels)
    return replace(source, train_labels=train, test_labels=test, classes=tuple(classes))
