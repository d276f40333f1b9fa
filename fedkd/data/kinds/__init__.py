"""Kinds of samples: images, vectors, sequences, tokens, or one's own."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from fedkd.base.errors import InputError, unknown
from fedkd.base.inputs import Inputs, describe, shape_of
from fedkd.data.kinds.image import Image
from fedkd.data.kinds.kind import NO_MOMENTS, Kind, Moments
from fedkd.data.kinds.sequence import Sequence
from fedkd.data.kinds.tokens import TOKEN_IDS, Tokens, vocabulary_of
from fedkd.data.kinds.vector import Vector

#: By name.
KINDS: dict[str, Kind] = {kind.name: kind for kind in (Image(), Vector(), Sequence(), Tokens())}


def find_kind(name: str) -> Kind:
    """The kind of this name; InputError for another."""
    if name not in KINDS:
        raise unknown("kind of samples", name, KINDS, cure=", or an object of a fedkd.data.Kind of your own")
    return KINDS[name]


def tell_kind(where: str, inputs: Inputs) -> Kind:
    """The kind that samples of this type and shape must be; InputError where it cannot be told.

    >>> tell_kind("x", torch.zeros(5, 13)).name, tell_kind("x", torch.zeros(5, 12, dtype=torch.int64)).name
    ('vector', 'tokens')
    """
    if isinstance(inputs, Mapping):
        if TOKEN_IDS in inputs:
            return KINDS["tokens"]
        raise InputError(
            f"{where}: samples of {describe(shape_of(inputs))} are of no kind that can be told: give Source a kind"
        )
    told = {2: "vector", 3: "sequence", 4: "image"}.get(inputs.dim()) if inputs.is_floating_point() else None
    if inputs.dtype in (torch.uint8, torch.uint16) and inputs.dim() == 4:
        told = "image"
    if inputs.dtype == torch.int64 and inputs.dim() == 2:
        told = "tokens"
    if told is None:
        found = f"{inputs.dtype} {tuple(inputs.shape)}"
        known = "uint8 (N, C, H, W) of images, float (N, F) of vectors, float (N, L, F) of signals, int64 (N, L) of tokens"
        raise InputError(f"{where}: samples are {found}, and known are {known}: convert them, or give Source a kind")
    return KINDS[told]


__all__ = ["KINDS", "NO_MOMENTS", "Kind", "Moments", "find_kind", "tell_kind", "vocabulary_of"]
