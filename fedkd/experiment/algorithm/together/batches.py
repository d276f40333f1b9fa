"""The batches that many clients draw at one step, as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fedkd.base.inputs import Inputs, each, rows
from fedkd.experiment.algorithm.on_labels import cross_entropy, labelled_cross_entropy
from fedkd.experiment.algorithm.together.alike import Alone
from fedkd.experiment.algorithm.together.fitting import Fitting
from fedkd.experiment.algorithm.work import Work


@final
@dataclass(frozen=True, eq=False)
class OneOfMany:
    """What a loss sees as its ``Batch``: one client's, inside the function that is vmapped over all."""

    inputs: Inputs  # (B, ...), normalised
    labels: Tensor  # (B,) int64
    ids: Tensor  # (B,) int64
    positions: Tensor  # (B,) int64
    work: Work
    class_weights: Tensor | None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def images(self) -> Inputs:
        """``inputs``, as they were called while all samples were images."""
        return self.inputs

    def cross_entropy(self, logits: Tensor, labels: Tensor | None = None) -> Tensor:
        """As ``Batch`` has it."""
        labels = self.labels if labels is None else labels
        return cross_entropy(logits, labels, self.class_weights, self.work.settings.label_smoothing)

    def labelled_cross_entropy(self, logits: Tensor) -> Tensor:
        """As ``Batch`` has it."""
        return labelled_cross_entropy(logits, self.labels, self.class_weights, self.work.settings.label_smoothing)

    def view(self, number: int) -> Inputs:
        """Random views are drawn batch by batch."""
        raise Alone("its loss takes random views of its samples")


@final
class StackedBatches:
    """All batches of some trainings."""

    def __init__(self, fittings: Sequence[Fitting]) -> None:
        self._draws = [fitting.draws for fitting in fittings]
        samples = [fitting.data.samples for fitting in fittings]
        starts = torch.tensor([0, *(len(each) for each in samples)]).cumsum(0)
        self._ids, self._starts = torch.cat([each.indices for each in samples]), starts[:-1, None]
        self._samples, self._work = samples[0], fittings[0].data.work

    def of(self, start: int, end: int, step: int) -> tuple[Inputs, Tensor, Tensor, Tensor]:
        """Inputs (K, B, ...), labels (K, B), ids (K, B) and positions (K, B) of the clients from ``start`` to ``end``."""
        positions = torch.stack([draws[step].positions for draws in self._draws[start:end]])  # (K, B)
        ids = self._ids[positions + self._starts[start:end]]  # (K, B)
        samples, device = self._samples, self._work.device
        raw = each(lambda tensor: tensor.to(device), rows(samples.inputs, ids.flatten()))
        moments = (self._work.moments or samples.moments).to(device)
        inputs = each(lambda tensor: tensor.unflatten(0, ids.shape), samples.kind.normalise(raw, moments))
        return inputs, samples.labels[ids].to(device), ids, positions
