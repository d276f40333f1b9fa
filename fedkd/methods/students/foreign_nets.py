"""Nets of another run, used as this run's own: inputs as they knew them, classes in this run's order."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from fedkd.base.errors import InputError, Notice
from fedkd.nets import Encoder, Net
from fedkd.results.data import RecordedData

if TYPE_CHECKING:
    from fedkd.data import Source

#: The logit of a class that a net does not know: of no weight in any softmax, and finite.
NO_LOGIT = -1e4


def columns_of(theirs: Sequence[str], ours: Sequence[str], *, some: bool = False) -> list[int]:
    """For each of our classes its number in the other run; -1 where that run does not know it, which only ``some`` allows.

    With ``some`` the other run may know classes that we have not, too, as long as it knows one of ours.

    Raises:
        InputError: the classes of the two runs do not go together; it says which, and begins as the rest of a sentence.

    >>> columns_of(["cat", "ant"], ["ant", "cat"]), columns_of(["cat", "owl"], ["ant", "cat"], some=True)
    ([1, 0], [-1, 0])
    """
    if list(theirs) == list(ours):
        return list(range(len(ours)))
    for names in (theirs, ours):
        if twice := [name for name in names if list(names).count(name) > 1]:
            raise InputError(
                f"its classes are not this run's, and {twice[0]!r} is the name of two: give each a name of its own"
            )
    lacks, beyond = ([name for name in a if name not in b] for a, b in ((ours, theirs), (theirs, ours)))
    if len(lacks) == len(ours):
        raise InputError(f"it knows none of this run's classes, it has {_named(theirs)}: take another run")
    if (lacks or beyond) and not some:
        what = f"does not know {_named(lacks)}" if lacks else f"knows {_named(beyond)} too"
        raise InputError(f"its classes are not this run's, it {what}: take another run, or multi_teacher's target = \"unify\"")
    return [list(theirs).index(name) if name in theirs else -1 for name in ours]


def origin(run: str, source: Source) -> RecordedData | None:
    """What a finished run recorded of its data; None, with a Notice, where an earlier fedkd recorded nothing.

    Raises InputError where its samples are not of the kind and shape of ours.
    """
    data = RecordedData.read(Path(run))
    if data is None and Path(run).is_dir():
        text = f"{run} does not say which data it saw: classes and normalisation are taken to be this run's"
        warnings.warn(text, Notice, stacklevel=2)
    if data is not None and (data.kind, data.shape) != (source.kind.name, source.shape):
        raise InputError(
            f"{run} saw {data.kind} samples {data.shape}, this run's are {source.kind.name} {source.shape}: take another run"
        )
    return data


def with_our_classes(net: Net, columns: Sequence[int]) -> Net:
    """The net, giving logits in the order of our classes, whose numbers at the net's own run are given."""
    net.heads["classifier"] = nn.Sequential(net.heads["classifier"], Columns(columns))
    return net


def with_our_inputs(net: Net, theirs: tuple[Tensor, Tensor], ours: tuple[Tensor, Tensor], *, images: bool = True) -> Net:
    """The net, taking samples that were normalised by our mean and std, where it learned on those of its own run.

    Both are (C,) of the channels of images, and else (F,) of the last axis.
    """
    (their_mean, their_std), (our_mean, our_std) = theirs, ours
    scale, shift = our_std / their_std, (our_mean - their_mean) / their_std
    if images:
        scale, shift = scale[:, None, None], shift[:, None, None]

    def shifted(inner: nn.Module) -> nn.Module:
        return ShiftedEncoder(inner, scale, shift) if isinstance(inner, Encoder) else ShiftedModule(inner, scale, shift)

    net.wrap(shifted)
    return net


@final
class Columns(nn.Module):
    """Logits (B, C') in another run's order -> logits (B, C) in ours; ``NO_LOGIT`` for what it does not know."""

    def __init__(self, columns: Sequence[int]) -> None:
        super().__init__()
        self.columns = list(columns)

    def forward(self, logits: Tensor) -> Tensor:
        """See the class."""
        padded = torch.cat([logits, logits.new_full((len(logits), 1), NO_LOGIT)], dim=1)  # which -1 points at
        return padded[:, self.columns]


@final
class ShiftedEncoder(Encoder):
    """An encoder that sees ``scale * inputs + shift``."""

    scale: Tensor
    shift: Tensor

    def __init__(self, encoder: Encoder, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.encoder, self.out_features = encoder, encoder.out_features
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, inputs: Tensor) -> Tensor:
        """Features (B, D) of samples (B, ...)."""
        features: Tensor = self.encoder(self.scale * inputs + self.shift)
        return features

    def stages(self, inputs: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """See ``Encoder.stages``."""
        return self.encoder.stages(self.scale * inputs + self.shift)


@final
class ShiftedModule(nn.Module):
    """A module that sees ``scale * inputs + shift``."""

    scale: Tensor
    shift: Tensor

    def __init__(self, module: nn.Module, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.module = module
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, inputs: Tensor) -> Tensor:
        """Whatever the module gives, of samples (B, ...)."""
        output: Tensor = self.module(self.scale * inputs + self.shift)
        return output


def _named(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(repr(name[:40]) for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
