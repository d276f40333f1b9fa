"""The public set: images that everybody may see and that nobody trains or tests on as their own."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from fedkd.base.errors import InputError
from fedkd.base.randomness import generator
from fedkd.data.samples import Samples
from fedkd.data.source import Source


def public_from(other: Source, source: Source, *, count: int, labels: bool, seed: int) -> Samples:
    """A public set of ``count`` training images of another data set, normalised as the clients' own images are.

    Raises:
        InputError: too few images, another shape, other classes where labels are asked for, or an image that is also
            among the clients' or test images.
    """
    names = f"data.public_source {other.name!r}"
    if count > len(other.train_images):
        raise InputError(f"data.public = {count}, but {names} has {len(other.train_images)} training images")
    if count < 1:
        raise InputError(f"{names} is named but data.public = {count}: say how many images to take")
    if other.shape != source.shape:
        raise InputError(f"{names}: its images are {other.shape} (C, H, W), those of {source.name!r} {source.shape}")
    if labels and other.classes != source.classes:
        raise InputError(f"{names}: its classes are not those of {source.name!r}; leave data.public_labels out")
    rows = torch.randperm(len(other.train_images), generator=generator(seed, "public"))[:count]
    held = image_hashes(other.train_images[rows])
    if twice := held & (image_hashes(source.train_images) | image_hashes(source.test_images)):
        raise InputError(
            f"{names}: {len(twice)} of its {count} public images are also train or test images of {source.name!r}; "
            "name another data set, or leave data.public_source out to hold out some of the training images"
        )
    known = other.train_labels if labels else torch.full_like(other.train_labels, -1)
    return Samples(other.train_images, known, rows, source.mean, source.std, len(source.classes))


def image_hashes(images: Tensor) -> set[bytes]:
    """A hash of the pixels of each image; images are (N, C, H, W)."""
    return {hashlib.blake2b(image.data, digest_size=16).digest() for image in images.flatten(1).contiguous().numpy()}
