"""A small convolutional net, as the FedAvg paper and the engine benchmarks use it."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.base.errors import InputError, did_you_mean
from fedkd.nets.encoder import Encoder
from fedkd.nets.options import check_sizes, check_tuple


class CNN(Encoder):
    """Convolutions, each with a ReLU and 2x2 max-pooling, and one hidden layer; its output after ReLU is the feature.

    On images of 1x28x28 with 10 classes the default has 52,138 parameters; the net of FedAvg (arXiv 1602.05629) in
    its usual form, ``channels=(32, 64), kernel=5, padding=0, hidden=512``, has 582,026.

    Args:
        shape: (C, H, W) of an image.
        channels: of each convolution, one after the other.
        kernel: height and width of the convolutions.
        padding: pixels on each side, or "same" to keep the size.
        hidden: D, the width of the feature.
        norm: "none", or "batch", a BatchNorm after every convolution.
    """

    one_part: ClassVar[str] = "net 'cnn' with one convolution has no trunk to share: give channels two numbers or more"

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        channels: tuple[int, ...] = (8, 16),
        kernel: int = 3,
        padding: int | str = "same",
        hidden: int = 64,
        norm: str = "none",
    ) -> None:
        super().__init__()
        check_tuple("cnn", "channels", channels)
        check_sizes("cnn", "kernel", kernel)
        check_sizes("cnn", "hidden", hidden)
        if padding != "same":
            check_sizes("cnn", "padding (if not 'same')", padding, least=0)
        if norm not in NORMS:
            raise InputError(f"net 'cnn': norm {norm!r} is unknown: {did_you_mean(str(norm), NORMS)}")
        inputs, height, width = shape
        for _ in channels:
            height, width = (_pooled(size, kernel, padding) for size in (height, width))
        if min(height, width) < 1:
            raise InputError(
                f"net 'cnn': images of {shape[1]}x{shape[2]} are too small for {len(channels)} convolutions of kernel "
                f'{kernel}, padding {padding}, each halving the size: take fewer channels, or padding = "same"'
            )
        widths = (inputs, *channels)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, kernel, padding=padding) for before, after in zip(widths, channels, strict=False)
        )
        self.norms = nn.ModuleList(NORMS[norm](after) for after in channels)
        self.hidden = nn.Linear(widths[-1] * height * width, hidden)
        self.out_features = hidden

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, D) of images (B, C, H, W)."""
        return self.stages(images)[1]

    def stages(self, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """The pooled output of every convolution (B, channels, h, w), and the features (B, D)."""
        x, maps = images, []
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            maps.append(F.max_pool2d(norm(convolution(x)), 2))
            x = F.relu(maps[-1])  # as pooling after the ReLU, on a quarter of the values
        return tuple(maps), F.relu(self.hidden(x.flatten(1)))

    def in_parts(self) -> tuple[nn.Module, ...]:
        """Each convolution, giving its map (B, channels, h, w) after ReLU; the last one with the hidden layer."""
        stages = zip(self.convolutions, self.norms, strict=True)
        *first, last = (nn.Sequential(convolution, norm, nn.MaxPool2d(2), nn.ReLU()) for convolution, norm in stages)
        return *first, nn.Sequential(last, nn.Flatten(), self.hidden, nn.ReLU())


def _pooled(size: int, kernel: int, padding: int | str) -> int:
    """Height or width after one convolution and one pooling."""
    return (size if isinstance(padding, str) else size + 2 * padding - kernel + 1) // 2


NORMS: dict[str, Callable[[int], nn.Module]] = {"none": lambda channels: nn.Identity(), "batch": nn.BatchNorm2d}
