"""Decoding a column of JPEG, PNG ... images into one tensor."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedkd.base.errors import InputError

GREY_MODES = ("1", "L", "LA")  # of Pillow: black and white, grey, grey with transparency


def decode_images(encoded: Sequence[bytes | str | None], *, where: str) -> tuple[Tensor, int]:
    """The images as one tensor (N, C, H, W) uint8, and how many of them are grey: C is 1 if all are, else 3.

    They stand upright, as their EXIF orientation says. Transparency is dropped, colours are as stored. Grey images of 16 bits
    are uint16. (About 60 us for 32x32 in JPEG.)

    Args:
        encoded: the contents of an image file, or its path, for each image.
        where: for the error's message.

    Raises:
        InputError: one that is missing, is no image, moves, has other bits a channel than the first, or another size.
    """
    if not encoded:
        raise InputError(f"{where}: there are no images")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Corrupt EXIF data")  # then nobody knows how it was held
        pixels, grey = _decode(encoded, "L", where)
        if pixels is None:
            pixels, grey = _decode(encoded, "RGB", where)
    images = torch.from_numpy(pixels)
    return (images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2).contiguous()), grey


def _decode(encoded: Sequence[bytes | str | None], mode: str, where: str) -> tuple[Any, int]:
    """Pixels (N, H, W) in mode L, (N, H, W, 3) in mode RGB, and how many images are grey; no pixels if L does not do."""
    pixels: Any = None
    grey = 0
    for row, item in enumerate(encoded):
        if item is None:
            raise InputError(f"{where}, row {row}: the image is missing")
        name = f"{where}, row {row}" + (f" ({item!r})" if isinstance(item, str) else "")
        values, is_grey = _read_image(item, mode, name)
        if values is None:
            return None, 0
        grey += is_grey
        if pixels is None:
            pixels = np.empty((len(encoded), *values.shape), values.dtype)
        if values.dtype != pixels.dtype:
            bits = f"{8 * values.itemsize} bits a channel but the first {8 * pixels.itemsize}"
            raise InputError(f"{name}: the image has {bits}; convert them to the same")
        if values.shape != pixels.shape[1:]:
            size, first = (f"{shape[1]}x{shape[0]}" for shape in (values.shape, pixels.shape[1:]))
            raise InputError(f"{name}: the image is {size} but the first is {first}; resize them to one size first")
        pixels[row] = values
    return pixels, grey


def _read_image(item: bytes | str, mode: str, name: str) -> tuple[Any, bool]:
    """The pixels of one image, None for a coloured one in mode L; and whether it is grey."""
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(item) if isinstance(item, bytes) else item) as image:
            _check_kind(image, name)
            if image.mode.startswith("I"):
                ImageOps.exif_transpose(image, in_place=True)
                return _in_16_bits(np.asarray(image), name), True
            is_grey = image.mode in GREY_MODES
            if mode == "L" and not is_grey:
                return None, False
            ImageOps.exif_transpose(image, in_place=True)
            return np.asarray(image if image.mode == mode else image.convert(mode)), is_grey
    except InputError:
        raise
    except Exception as error:  # Pillow's plugins raise whatever a broken file leads them to
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else type(error).__name__
        raise InputError(f"{name}: not an image that can be read ({reason})") from error


def _check_kind(image: Any, name: str) -> None:
    if image.mode.startswith("F"):
        raise InputError(f"{name}: the image holds real numbers (mode {image.mode}); convert it to 8 or 16 bits")
    if getattr(image, "is_animated", False) and image.format != "MPO":  # cameras put a preview beside a JPEG
        raise InputError(f"{name}: the file holds {image.n_frames} images ({image.format}); keep one of them")


def _in_16_bits(pixels: Any, name: str) -> Any:
    """Grey pixels in uint16; InputError for larger ones, as of 32 bits."""
    if pixels.size and (pixels.min() < 0 or pixels.max() > 65535):
        raise InputError(f"{name}: the image has more than 16 bits a channel ({pixels.max()}); convert it to 16")
    return pixels.astype(np.uint16)
