"""Augmented views: random variants, drawn for each image of a batch on its own. CPU and GPU, any size."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn

from fedkd.base.errors import unknown
from fedkd.base.randomness import generator, seeded
from fedkd.data.samples import standardise


def augment(images: Tensor, preset: str, *, seed: int, mean: Tensor, std: Tensor) -> Tensor:
    """One random view of each image, normalised: float32 (B, C, H, W).

    Args:
        images: uint8 (B, C, H, W).
        preset: a name in PRESETS.
        seed: equal seeds give equal views.
        mean: channel means (C,) of pixels in 0..1.
        std: channel standard deviations (C,).
    """
    if preset not in PRESETS:
        raise unknown("data.views", preset, PRESETS)
    return standardise(PRESETS[preset](images, seed), mean, std)


def crop_and_flip(images: Tensor, seed: int) -> Tensor:
    """FedX's views of CIFAR-10: pad by reflection (4 pixels of 32), crop at random, flip half of them. Pixels in 0..1.

    The official code's colour jitter (brightness 0) does nothing and is left out.
    """
    B, C, H, W = images.shape
    rng = generator(seed, "crop and flip")
    rows = reflect(crop_offsets(B, H, rng), H)  # (B, H)
    columns = reflect(crop_offsets(B, W, rng), W)  # (B, W)
    flipped = torch.rand(B, 1, generator=rng) < 0.5
    columns = torch.where(flipped, columns.flip(1), columns)
    pixels = (rows[:, :, None] * W + columns[:, None, :]).flatten(1).to(images.device)  # (B, HW) places in the image
    views = images.flatten(2).gather(2, pixels[:, None, :].expand(B, C, H * W))  # (B, C, HW)
    return views.view(B, C, H, W).float().div_(255)


def crop_offsets(count: int, size: int, rng: torch.Generator) -> Tensor:
    """Places (count, size) along one side of random crops of an image that is padded by an eighth at either end."""
    pad = min(max(size // 8, 1), size - 1)
    start = torch.randint(-pad, pad + 1, (count, 1), generator=rng)
    return start + torch.arange(size)


def reflect(places: Tensor, size: int) -> Tensor:
    """Places beyond a border mirrored at the border pixel, which is not repeated: -1 becomes 1, size becomes size-2."""
    inside = places.abs()
    return torch.where(inside < size, inside, 2 * (size - 1) - inside)


def simclr(images: Tensor, seed: int) -> Tensor:
    """SimCLR's views (Chen et al. 2020, arXiv 2002.05709, appendix A) without blur: pixels in 0..1.

    Crop of 8 to 100 % of the area, resized; flip; colour jitter with p = 0.8; grey with p = 0.2.
    Images of one channel have no colour: theirs are brightness and contrast only.
    """
    _, C, H, W = images.shape
    with seeded(seed):
        return _simclr_pipeline(C, H, W)(images.float().div_(255))  # type: ignore[no-any-return]


@lru_cache(maxsize=8)
def _simclr_pipeline(C: int, H: int, W: int) -> nn.Module:
    import kornia.augmentation as K

    crop = [K.RandomResizedCrop((H, W), scale=(0.08, 1.0)), K.RandomHorizontalFlip(p=0.5)]
    if C == 1:
        return nn.Sequential(*crop, K.ColorJitter(0.8, 0.8, 0.0, 0.0, p=0.8))
    return nn.Sequential(*crop, K.ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8), K.RandomGrayscale(p=0.2))


PRESETS: dict[str, Callable[[Tensor, int], Tensor]] = {"fedx": crop_and_flip, "simclr": simclr}
