"""Augmented views: random variants, drawn for each sample of a batch on its own. CPU and GPU, any size."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

import torch
from torch import Tensor, nn

from fedkd.base.errors import InputError, unknown
from fedkd.base.inputs import Inputs, describe, shape_of
from fedkd.base.inputs import count as count_of
from fedkd.base.randomness import generator, seeded
from fedkd.base.user_code import import_object
from fedkd.data.feature_views import corrupt, jitter_scale
from fedkd.data.kinds import Kind, Moments
from fedkd.data.kinds.image import pixels_of, standardise
from fedkd.data.samples import Samples
from fedkd.data.token_views import drop_tokens

#: Raw samples (B, ...), a seed, all samples of their split and what to normalise by -> random views, normalised.
View = Callable[[Any, int, Samples, Moments], Inputs]


def augment(inputs: Inputs, preset: str, *, seed: int, samples: Samples, moments: Moments) -> Inputs:
    """One random view of each sample, normalised, of the shape of ``inputs``.

    Args:
        inputs: raw (B, ...), as ``Samples.take`` gives them.
        preset: a name in ``PRESETS``; empty for the usual one of the samples' kind; or ``"my_module:views"``, a function
            ``(inputs, rng) -> inputs`` of normalised samples.
        seed: equal seeds give equal views.
        samples: the split that they are of.
        moments: what to normalise by.

    Raises:
        InputError: an unknown preset, one for samples of another kind, or a function that gives other shapes.
    """
    return find_view(preset, samples.kind)(inputs, seed, samples, moments)


def find_view(preset: str, kind: Kind) -> View:
    """The function of a preset, if it is one for this kind; see ``augment``."""
    if ":" in preset:
        return users_view(preset)
    if preset and preset not in PRESETS:
        raise unknown("data.views", preset, PRESETS)
    fitting = {name: held for name, (of, held) in PRESETS.items() if of == kind.name}
    if not fitting:
        cure = 'give a function of your own, data.views = "my_module:views"'
        raise InputError(f"data.views: there are no random views of samples of kind {kind.name!r}: {cure}")
    if preset and preset not in fitting:
        raise InputError(
            f"data.views = {preset!r} is for samples of kind {PRESETS[preset][0]!r}, and these are of kind {kind.name!r}: "
            f"take {' or '.join(fitting)}"
        )
    found: View = fitting[preset or next(iter(fitting))]
    return found


def users_view(name: str) -> View:
    """The view that a function ``(inputs, rng) -> inputs`` makes of normalised samples.

    ``rng`` is a generator of the CPU; torch's, NumPy's and Python's own draw by the seed as well.
    """
    function = import_object(name)
    if not callable(function):
        raise InputError(f"data.views = {name!r} is a {type(function).__name__}: give a function (inputs, rng) -> inputs")

    def view(inputs: Inputs, seed: int, samples: Samples, moments: Moments) -> Inputs:
        plain = samples.kind.normalise(inputs, moments)
        with seeded(seed):
            given: Inputs = function(plain, generator(seed, "views"))
        if shape_of(given) != shape_of(plain) or count_of(given) != count_of(plain):
            shapes = (f"{count_of(each)} of {describe(shape_of(each))}" for each in (given, plain))
            raise InputError("data.views = {!r} gives {} for {}: it must leave the shape as it was".format(name, *shapes))
        return given

    return view


def of_pixels(view: Callable[[Tensor, int], Tensor]) -> View:
    """The view of images that a function of raw ones and a seed makes, its pixels in 0..1."""
    return wraps(view)(lambda images, seed, samples, moments: standardise(view(images, seed), *moments))


def crop_and_flip(images: Tensor, seed: int) -> Tensor:
    """FedX's views of CIFAR-10: pad by reflection (4 pixels of 32), crop at random, flip half of them. Pixels in 0..1.

    The official code's colour jitter (brightness 0) does nothing and is left out.
    """
    images = pixels_of(images) if images.dtype == torch.uint16 else images  # torch gathers no such integers
    B, C, H, W = images.shape
    rng = generator(seed, "crop and flip")
    rows = reflect(crop_offsets(B, H, rng), H)  # (B, H)
    columns = reflect(crop_offsets(B, W, rng), W)  # (B, W)
    flipped = torch.rand(B, 1, generator=rng) < 0.5
    columns = torch.where(flipped, columns.flip(1), columns)
    pixels = (rows[:, :, None] * W + columns[:, None, :]).flatten(1).to(images.device)  # (B, HW) places in the image
    views = images.flatten(2).gather(2, pixels[:, None, :].expand(B, C, H * W))  # (B, C, HW)
    return pixels_of(views.view(B, C, H, W))


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
    Images of one channel, or of more than three, have no colour: theirs are brightness and contrast only.
    """
    _, C, H, W = images.shape
    with seeded(seed):
        return _simclr_pipeline(C, H, W)(pixels_of(images))  # type: ignore[no-any-return]


@lru_cache(maxsize=8)
def _simclr_pipeline(C: int, H: int, W: int) -> nn.Module:
    import kornia.augmentation as K

    crop = [K.RandomResizedCrop((H, W), scale=(0.08, 1.0)), K.RandomHorizontalFlip(p=0.5)]
    if C != 3:
        return nn.Sequential(*crop, K.ColorJitter(0.8, 0.8, 0.0, 0.0, p=0.8))
    return nn.Sequential(*crop, K.ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8), K.RandomGrayscale(p=0.2))


PRESETS: dict[str, tuple[str, View]] = {
    "fedx": ("image", of_pixels(crop_and_flip)),
    "simclr": ("image", of_pixels(simclr)),
    "corrupt": ("vector", corrupt),
    "jitter_scale": ("sequence", jitter_scale),
    "drop_tokens": ("tokens", drop_tokens),
}
"""Name -> the kind of samples it is for, and the view. The first of a kind is its usual one."""
