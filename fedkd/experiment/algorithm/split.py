"""What training runs over: samples bound to a node's settings and random streams, and the batches drawn from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import torch
from torch import Tensor

from fedkd.base.inputs import Inputs, each
from fedkd.base.randomness import derive
from fedkd.data import Moments, Samples, augment
from fedkd.experiment.algorithm.batches import batch_sizes, batches_a_round
from fedkd.experiment.algorithm.on_labels import balanced_weights, cross_entropy, labelled_cross_entropy
from fedkd.experiment.algorithm.work import Work

#: ``loss(net, batch)`` gives the parts by name; their sum is descended and each is logged. Further arguments: ``fit``'s given.
Loss = Callable[..., Mapping[str, Tensor]]
Rng = Callable[[str], torch.Generator]


class Batch:
    """Some samples of a split. Inputs are made when asked for, so a loss pays only for what it uses."""

    def __init__(self, samples: Samples, positions: Tensor, work: Work, seed: int, class_weights: Tensor | None = None) -> None:
        self.positions = positions  # (B,), in the split
        self._raw, self._labels, self.ids = samples.take(positions)  # (B, ...), (B,), (B,)
        self._samples, self._work, self._seed, self._class_weights = samples, work, seed, class_weights

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def inputs(self) -> Inputs:
        """The samples as a net takes them, on the device: (B, ...), normalised, or several tensors by name."""
        return self._place(self._samples.kind.normalise(self._raw_there, self._moments))

    @property
    def images(self) -> Inputs:
        """``inputs``, as they were called while all samples were images."""
        return self.inputs

    @cached_property
    def labels(self) -> Tensor:
        """Labels on the device, -1 where one may not be used. (B,) int64."""
        return self._labels.to(self._work.device)

    def cross_entropy(self, logits: Tensor, labels: Tensor | None = None) -> Tensor:
        """Mean cross-entropy of logits (B, C) with labels (B,), default its own, smoothed and weighted as [train] says."""
        labels, smoothing = self.labels if labels is None else labels, self._work.settings.label_smoothing
        return cross_entropy(logits, labels, self._class_weights, smoothing)

    def labelled_cross_entropy(self, logits: Tensor) -> Tensor:
        """The same of a batch of which some labels are -1: only the others count, over the size of the whole batch."""
        return labelled_cross_entropy(logits, self.labels, self._class_weights, self._work.settings.label_smoothing)

    def view(self, number: int) -> Inputs:
        """Random view ``number`` of the samples, by the experiment's preset, shaped as ``inputs``; equal on each call."""
        seed = derive(self._seed, "view", number)
        view = augment(self._raw_there, self._work.views, seed=seed, samples=self._samples, moments=self._moments)
        return self._place(view)

    @property
    def _raw_there(self) -> Inputs:
        return each(lambda tensor: tensor.to(self._work.device), self._raw)

    @property
    def _moments(self) -> Moments:
        return (self._work.moments or self._samples.moments).to(self._work.device)

    def _place(self, inputs: Inputs) -> Inputs:
        """Images lie channels last."""
        return each(
            lambda tensor: tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor, inputs
        )


@dataclass(frozen=True, eq=False)
class Draw:
    """One batch that was drawn: positions in a split, and the seed of its random views."""

    positions: Tensor  # (B,)
    seed: int


@dataclass(frozen=True, eq=False)
class Split:
    """Samples bound to settings, a device and random streams: what ``fit`` trains on."""

    samples: Samples
    work: Work
    rng: Rng

    def __len__(self) -> int:
        return len(self.samples)

    def labelled(self) -> Split:
        """Only the samples whose labels may be used."""
        return Split(self.samples.labelled(), self.work, self.rng)

    def batches(self, *, epochs: int, batch_size: int, rng: torch.Generator) -> Iterator[Batch]:
        """Shuffled batches, ``epochs`` times over. The last of an epoch may be smaller; none has one sample if avoidable."""
        for draw in self.draws(epochs=epochs, batch_size=batch_size, rng=rng):
            yield self.batch(draw)

    def draws(self, *, epochs: int, batch_size: int, rng: torch.Generator) -> Iterator[Draw]:
        """What ``batches`` takes, without taking it."""
        sizes = batch_sizes(len(self), batch_size)
        for _ in range(epochs):
            parts = torch.randperm(len(self), generator=rng).split(sizes)
            yield from map(Draw, parts, torch.randint(2**62, (len(parts),), generator=rng).tolist())

    def passes(self, batch_size: int, rng: torch.Generator) -> Iterator[Draw]:
        """Shuffled pass after shuffled pass, without end: each sample once in each, so no batch reaches into the next one."""
        while True:
            yield from self.draws(epochs=1, batch_size=batch_size, rng=rng)

    def batch(self, draw: Draw) -> Batch:
        """The samples of this draw."""
        return Batch(self.samples, draw.positions, self.work, draw.seed, self.class_weights)

    @cached_property
    def class_weights(self) -> Tensor | None:
        """(C,), on the device: each class counts as much as another, of those that are here; None: samples count alike."""
        if self.work.settings.class_weights == "none":
            return None
        return balanced_weights(self.samples.label_counts()).to(self.work.device)

    def of_a_round(self, batch_size: int, rng: torch.Generator) -> Iterator[Draw]:
        """The shuffled batches of one round's training, as many as the settings say."""
        return islice(self.passes(batch_size, rng), batches_a_round(len(self), self.work.settings, batch_size))

    def stream(self, purpose: str, batch_size: int | None = None) -> Iterator[Batch]:
        """Endless shuffled batches of full size (or of all samples, if fewer), independent of every other stream.

        A pass leaves out what does not fill a batch, other samples each time.
        """
        rng, size = self.rng(purpose), min(batch_size or self.work.settings.batch_size, len(self))
        while True:
            yield from (batch for batch in self.batches(epochs=1, batch_size=size, rng=rng) if len(batch) >= size)
