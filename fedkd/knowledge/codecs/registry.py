"""Names -> codecs: plain ones, and families with a number in the name."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch

from fedkd.base.errors import InputError, did_you_mean
from fedkd.knowledge.codecs.cast import Cast
from fedkd.knowledge.codecs.codec import Codec
from fedkd.knowledge.codecs.deflate import Deflate
from fedkd.knowledge.codecs.delta import Delta
from fedkd.knowledge.codecs.hard_labels import HardLabels
from fedkd.knowledge.codecs.int8 import Int8
from fedkd.knowledge.codecs.soft_labels import SoftLabels
from fedkd.knowledge.codecs.svd import Svd
from fedkd.knowledge.codecs.top import Top
from fedkd.knowledge.codecs.whole import Whole

CODECS: dict[str, Codec] = {
    "float16": Cast(torch.float16),
    "bfloat16": Cast(torch.bfloat16),
    "int8": Int8(),
    "svd": Svd(),
    "delta": Delta(),
    "deflate": Deflate(),
}

_BITS: dict[int, Codec] = {1: HardLabels(), **{bits: SoftLabels(bits) for bits in range(2, 17)}, 32: Whole()}


def _bits(bits: int) -> Codec:
    if bits not in _BITS:
        raise ValueError("bits takes 1 to 16, or 32 for no quantisation")
    return _BITS[bits]


#: Name without its number -> the codec of this number. Raises ValueError for a number out of range.
FAMILIES: dict[str, Callable[[int], Codec]] = {"bits": _bits, "top": Top, "svd": Svd}


def chain(names: Sequence[str], key: str = "uplink") -> tuple[Codec, ...]:
    """The codecs of these names, in order of encoding.

    Args:
        names: plain names of ``CODECS``, or a family of ``FAMILIES`` and its number: "bits4", "top8", "svd98".
        key: the key of the experiment that lists them, for messages.

    Raises:
        InputError: a name is unknown, its number is out of range, or a codec stands twice.
    """
    codecs = tuple(_codec(name, key) for name in names)
    for name, codec in zip(names, codecs, strict=True):
        if codecs.count(codec) > 1:
            raise InputError(f"{key}: codec {name!r} stands in the chain twice: name it once")
    return codecs


def _codec(name: str, key: str) -> Codec:
    if name in CODECS:
        return CODECS[name]
    family = re.fullmatch(r"([a-z]+)(\d{1,6})", name, re.ASCII)
    if not family or family[1] not in FAMILIES:
        number = re.search(r"\d{1,6}", name)
        known = [*CODECS, *(f"{family}{number[0] if number else 8}" for family in FAMILIES)]
        raise InputError(f"{key}: unknown codec {name!r}: {did_you_mean(name, known)}")
    try:
        return FAMILIES[family[1]](int(family[2]))
    except ValueError as error:
        raise InputError(f"{key}: {name!r}: {error}") from None
