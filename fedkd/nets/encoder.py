"""What every architecture is: a map from samples to features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
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

    def cut(self) -> tuple[nn.Module, nn.Module]:
        """The net in two: a trunk, images (B, C, H, W) -> map, and a tail, map -> features (B, D).

        Both hold the encoder's own parameters and buffers, each of these once, and one after the other they compute exactly
        what ``forward`` does. The tail leaves the map as it was: several tails may read one. Methods with branches on a
        shared trunk can be used with encoders that override this.

        Raises:
            InputError: the net cannot be cut, which is the default.
        """
        raise InputError(f"{type(self).__name__} cannot be cut into a trunk and a branch: override Encoder.cut, or take a cnn")
