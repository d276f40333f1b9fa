"""What every architecture is: a map from samples to features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from fedkd.base.errors import InputError
from fedkd.base.inputs import Shape


class Encoder(nn.Module, ABC):
    """A network from samples to features, without heads. Subclass it, set ``out_features``, write ``forward``.

    >>> class Pixels(Encoder):
    ...     def __init__(self, shape):
    ...         super().__init__()
    ...         self.out_features = shape[0] * shape[1] * shape[2]
    ...
    ...     def forward(self, images):
    ...         return images.flatten(1)
    >>> Pixels((1, 8, 8)).out_features
    64
    """

    out_features: int
    """D, the width of a feature."""
    samples: ClassVar[str] = "images (C, H, W)"
    """What it takes, in words."""
    example_shape: ClassVar[tuple[int, ...]] = (1, 512, 512)
    """The shape of a sample that it is sure to take."""
    example_vocabulary: ClassVar[int] = 0
    """How many token ids the example has; 0: it is no text."""
    one_part: ClassVar[str] = "a net of one part cannot be cut: give it two"
    """What is said where it has only one part and is to be cut."""

    @classmethod
    def takes(cls, shape: Shape, vocabulary: int = 0) -> bool:
        """Whether it takes samples of this shape, tokens where there is a vocabulary.

        Default: one tensor of real numbers with as many axes as its example.
        """
        return not vocabulary and not isinstance(shape, Mapping) and len(shape) == len(cls.example_shape)

    @abstractmethod
    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """Features (B, D) of samples (B, ...), such as images (B, C, H, W); several tensors come by their names."""

    def stages(self, *inputs: Any, **named: Any) -> tuple[tuple[Tensor, ...], Tensor]:
        """Feature maps before their ReLU, (B, c, h, w) each, first to last, and the features that ``forward`` gives.

        Maps of signals and of text are (B, c, length, 1). Default: no maps. Losses on feature maps can be used with encoders
        that override this.
        """
        return (), self(*inputs, **named)

    def in_parts(self) -> tuple[nn.Module, ...]:
        """The net as a chain, first to last: samples -> map -> .. -> features (B, D).

        Default: the two halves of an overridden ``cut``; else none, it cannot be cut.

        They hold the encoder's own parameters and buffers, each of these once, and one after the other they compute exactly
        what ``forward`` does. No part changes the map that it reads: several may read one. Only the first may take several
        tensors by name. Methods that cut nets can be used with encoders of two parts or more.
        """
        return () if type(self).cut is Encoder.cut else self.cut()

    @property
    def cuts(self) -> int:
        """At how many levels it can be cut: at 1 behind its first part, at the last before its last; 0: at none."""
        return max(0, len(self.in_parts()) - 1)

    def cut(self, level: int = 0) -> tuple[nn.Module, nn.Module]:
        """The net in two: a trunk, images (B, C, H, W) -> map, and a tail, map -> features (B, D).

        Args:
            level: how many parts make the trunk; 0: all but the last.

        Raises:
            InputError: the net cannot be cut, or not there.
        """
        return cut_in_two(self, level)


def cut_in_two(encoder: Encoder, level: int = 0) -> tuple[nn.Module, nn.Module]:
    """What ``Encoder.cut`` says, of an encoder that overrides it without a level, too."""
    parts, name = encoder.in_parts(), type(encoder).__name__
    if not parts:
        raise InputError(f"{name} cannot be cut into a trunk and a branch: override Encoder.in_parts, or take a cnn")
    if len(parts) == 1:
        raise InputError(encoder.one_part)
    place = level or len(parts) - 1
    if not 0 < place < len(parts):
        places = "level 1 only" if len(parts) == 2 else f"levels 1 to {len(parts) - 1}"
        raise InputError(f"{name} can be cut at {places}, and not at level {level}")
    return chained(parts[:place]), chained(parts[place:])


class Chain(nn.Module):
    """Modules, one after the other; the first may take several tensors, by name too."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """What the last one gives."""
        first, *rest = self.parts
        held: Tensor = first(*inputs, **named)
        for part in rest:
            held = part(held)
        return held


def chained(parts: Sequence[nn.Module]) -> nn.Module:
    """Some modules as one; a single one as it is."""
    return parts[0] if len(parts) == 1 else Chain(parts)
