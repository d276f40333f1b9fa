"""What the zoo's nets for text have in common: which samples they take, and their table of vectors, one a token."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fedkd.base.inputs import Shape

#: The names under which transformers' own nets take tokens, and which of them are no padding.
IDS, MASK = "input_ids", "attention_mask"
#: The token that fills a text up to its length.
PADDING = 0


def are_tokens(shape: Shape, vocabulary: int) -> bool:
    """Whether samples are token ids (L,), alone or as ``input_ids``, beside them at most an ``attention_mask``."""
    if isinstance(shape, Mapping):
        return vocabulary > 0 and IDS in shape and set(shape) <= {IDS, MASK} and len(shape[IDS]) == 1
    return vocabulary > 0 and len(shape) == 1


def length_of(shape: Shape) -> int:
    """L, tokens a text, or steps of a signal (L, F)."""
    return (shape[IDS] if isinstance(shape, Mapping) else shape)[0]


def without_masked(input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Token ids (B, L), with padding where the mask (B, L) is 0."""
    return input_ids if attention_mask is None else input_ids.masked_fill(attention_mask == 0, PADDING)


def token_vectors(vocabulary: int, width: int, std: float) -> nn.Embedding:
    """A table (vocabulary, width) of normal vectors; that of padding is zero, and stays so."""
    table = torch.empty(vocabulary, width)
    if not table.is_meta:  # there, normal_ imports torch's compiler
        with torch.no_grad():
            table.normal_(0, std)[PADDING] = 0
    return nn.Embedding(vocabulary, width, padding_idx=PADDING, _weight=table)
