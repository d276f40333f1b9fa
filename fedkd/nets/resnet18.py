"""ResNet-18 in its form for small images. He et al. 2015, arXiv 1512.03385."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.base.errors import InputError, did_you_mean
from fedkd.nets.encoder import Encoder
from fedkd.nets.options import check_sizes


class ResNet18(Encoder):
    """The CIFAR form: a 3x3 stem of stride 1, no max-pooling, four stages of two blocks, global average pooling.

    Convolutions start Kaiming-normal (fan-out, ReLU), norms as the identity. FedX uses width 64: 11,168,832
    parameters on three channels.

    Args:
        shape: (C, H, W) of an image; any size, the stages halve it three times, rounding up.
        width: channels of the first stage; the others have 2, 4 and 8 times as many, and D = 8 * width.
        norm: "batch", or "group" (arXiv 1803.08494), which has no running statistics for clients to disagree on.
    """

    def __init__(self, shape: tuple[int, int, int], *, width: int = 64, norm: str = "batch") -> None:
        super().__init__()
        check_sizes("resnet18", "width", width)
        if norm not in NORMS:
            raise InputError(f"net 'resnet18': norm {norm!r} is unknown: {did_you_mean(str(norm), NORMS)}")
        make_norm = NORMS[norm]
        self.stem = nn.Conv2d(shape[0], width, 3, padding=1, bias=False)
        self.norm = make_norm(width)
        self.blocks = nn.Sequential(
            BasicBlock(width, width, 1, make_norm),
            BasicBlock(width, width, 1, make_norm),
            BasicBlock(width, 2 * width, 2, make_norm),
            BasicBlock(2 * width, 2 * width, 1, make_norm),
            BasicBlock(2 * width, 4 * width, 2, make_norm),
            BasicBlock(4 * width, 4 * width, 1, make_norm),
            BasicBlock(4 * width, 8 * width, 2, make_norm),
            BasicBlock(8 * width, 8 * width, 1, make_norm),
        )
        self.out_features = 8 * width
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:  # there, normal_ imports torch's compiler
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, 8 * width) of images (B, C, H, W)."""
        x: Tensor = F.relu_(self.norm(self.stem(images)))  # (B, width, H, W)
        x = self.blocks(x)  # (B, 8 * width, H/8, W/8)
        return x.mean(dim=(2, 3))

    def stages(self, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """The stem's output and those of the four stages, (B, width, H, W) .. (B, 8 * width, H/8, W/8), and the features."""
        maps: list[Tensor] = [self.norm(self.stem(images))]
        for first, second in zip(*[iter(self.blocks)] * 2, strict=True):
            maps.append(second.before_relu(first(F.relu(maps[-1]))))  # not in place, unlike forward: maps are kept
        return tuple(maps), F.relu(maps[-1]).mean(dim=(2, 3))

    def in_parts(self) -> tuple[nn.Module, ...]:
        """The stem, images (B, C, H, W) -> (B, width, H, W), and the four stages, the last with the average pooling."""
        stages = [nn.Sequential(*pair) for pair in zip(*[iter(self.blocks)] * 2, strict=True)]
        stem = nn.Sequential(self.stem, self.norm, nn.ReLU(inplace=True))
        return stem, *stages[:-1], nn.Sequential(stages[-1], GlobalAverage())


class GlobalAverage(nn.Module):
    """The mean over all places of a map."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, h, w) -> (B, c)."""
        return x.mean(dim=(2, 3))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, make_norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.convolution1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = make_norm(outputs)
        self.convolution2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = make_norm(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(Projection(inputs, outputs, 1, stride, bias=False), make_norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H/stride, W/stride)."""
        return F.relu_(self.before_relu(x))

    def before_relu(self, x: Tensor) -> Tensor:
        """The sum of both ways: what ``forward`` cuts off at 0."""
        residual = F.relu_(self.norm1(self.convolution1(x)))
        residual = self.norm2(self.convolution2(residual))
        both: Tensor = residual.add_(self.shortcut(x))
        return both


class Projection(nn.Conv2d):
    """A 1x1 convolution with a stride, as torch has it but for memory safety.

    The backward pass of torch 2.13's own writes out of bounds on some CPUs where the channels are no multiple of 8.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H/stride, W/stride)."""
        if self.in_channels % 8 == 0:
            return super().forward(x)
        rows, columns = self.stride
        return F.conv2d(x[:, :, ::rows, ::columns], self.weight)  # the same numbers, up to rounding


class GroupNorm(nn.GroupNorm):
    """GroupNorm computed in float32 or better: torch's bfloat16 kernel for channels-last is four times slower."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) of any float type -> the same."""
        wide = x.to(self.weight.dtype)
        return F.group_norm(wide, self.num_groups, self.weight, self.bias, self.eps).to(x.dtype)


def group_norm(channels: int) -> nn.Module:
    """GroupNorm of groups of at least 8 channels, at most 32 groups: a 1x1 map still has 8 values to a group.

    >>> [group_norm(channels).num_groups for channels in (8, 16, 24, 64, 128, 256, 512, 100)]
    [1, 2, 1, 8, 16, 32, 32, 1]
    """
    return GroupNorm(max(1, math.gcd(channels, 256) // 8), channels)


NORMS: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm2d, "group": group_norm}
