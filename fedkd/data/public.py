"""The public set: samples that everybody may see and that nobody trains or tests on as their own."""

from __future__ import annotations

from itertools import zip_longest

import torch

from fedkd.base.errors import InputError
from fedkd.base.inputs import describe
from fedkd.base.inputs import rows as take_rows
from fedkd.base.randomness import generator
from fedkd.data.dealt_out import moments_of
from fedkd.data.rows import row_hashes
from fedkd.data.samples import Samples
from fedkd.data.source import Source


def public_from(other: Source, source: Source, *, count: int, labels: bool, seed: int, normalise: str) -> Samples:
    """A public set of ``count`` training samples of another data set, normalised as the clients' own samples are.

    Raises:
        InputError: too few samples, another shape, other classes where labels are asked for, or a sample that is also
            among the clients' or test samples.
    """
    names = f"data.public_source {other.name!r}"
    if count > len(other.train_labels):
        raise InputError(f"data.public = {count}, but {names} has {len(other.train_labels)} training samples")
    if count < 1:
        raise InputError(f"{names} is named but data.public = {count}: say how many samples to take")
    if (other.kind.name, other.shape) != (source.kind.name, source.shape):
        theirs, ours = (f"{held.kind.name} {describe(held.shape)}" for held in (other, source))
        raise InputError(f"{names}: its samples are {theirs}, those of {source.name!r} {ours}")
    if other.features != source.features:
        first = next(pair for pair in zip_longest(other.features, source.features, fillvalue="none") if pair[0] != pair[1])
        means = f"its samples are encoded otherwise than those of {source.name!r} ({first[0]!r} where they have {first[1]!r})"
        raise InputError(
            f"{names}: {means}: leave data.public_source out, and public samples are held out of the training samples"
        )
    if labels and other.classes != source.classes:
        raise InputError(f"{names}: its classes are not those of {source.name!r}; leave data.public_labels out")
    rows = torch.randperm(len(other.train_labels), generator=generator(seed, "public"))[:count]
    held = row_hashes(take_rows(other.train_inputs, rows))
    if twice := held & (row_hashes(source.train_inputs) | row_hashes(source.test_inputs)):
        raise InputError(
            f"{names}: {len(twice)} of its {count} public samples are also train or test samples of {source.name!r}; "
            "name another data set, or leave data.public_source out to hold out some of the training samples"
        )
    known = other.train_labels if labels else torch.full_like(other.train_labels, -1)
    moments = moments_of(source, normalise, other.train_inputs, rows)
    return Samples(other.train_inputs, known, rows, source.kind, moments, len(source.classes))
