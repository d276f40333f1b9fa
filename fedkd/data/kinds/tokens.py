"""Tokens: text as numbers of a vocabulary, padded to one length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, final

import torch

from fedkd.base.errors import InputError
from fedkd.base.inputs import Inputs
from fedkd.data.kinds.kind import CHUNK, Kind

#: The name that transformers give to token ids among several tensors.
TOKEN_IDS = "input_ids"
#: The token that fills a text up to its length: it is no part of it.
PADDING = 0


@final
class Tokens(Kind):
    """Token ids (B, L) int64, or several such tensors by name, one of them ``input_ids``. Token 0 is padding."""

    name: ClassVar[str] = "tokens"

    def check(self, where: str, inputs: Inputs) -> None:
        """int64 (N, L), all tensors of one length, none negative."""
        named = inputs if isinstance(inputs, Mapping) else {TOKEN_IDS: inputs}
        if TOKEN_IDS not in named:
            raise InputError(f"{where}: tokens by name need {TOKEN_IDS!r} among them, not only {', '.join(named)}")
        for name, ids in named.items():
            said = f"{name} " if isinstance(inputs, Mapping) else "tokens "
            if ids.dtype != torch.int64 or ids.dim() != 2:
                raise InputError(f"{where}: {said}must be int64 (N, L), not {ids.dtype} {tuple(ids.shape)}")
            if len(ids) and (least := min(int(ids[at : at + CHUNK].min()) for at in range(0, len(ids), CHUNK))) < 0:
                raise InputError(f"{where}: {said}hold {least}: ids run from 0, and 0 is padding")
        if len({tuple(ids.shape) for ids in named.values()}) > 1:
            shapes = ", ".join(f"{name} {tuple(ids.shape)}" for name, ids in named.items())
            raise InputError(f"{where}: its tensors differ in shape ({shapes})")


def vocabulary_of(inputs: Inputs) -> int:
    """How many token ids there are, the largest one plus 1."""
    ids = inputs[TOKEN_IDS] if isinstance(inputs, Mapping) else inputs
    return max(int(ids[at : at + CHUNK].max()) for at in range(0, len(ids), CHUNK)) + 1 if ids.numel() else 0
