"""Random views of text."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedkd.base.inputs import Inputs
from fedkd.base.randomness import generator
from fedkd.data.kinds import Moments
from fedkd.data.kinds.tokens import PADDING, TOKEN_IDS
from fedkd.data.samples import Samples

#: The chance of a token to be blanked out.
DROPPED = 0.15
#: The name that transformers give to what says which tokens count.
MASK = "attention_mask"


def drop_tokens(inputs: Inputs, seed: int, samples: Samples, moments: Moments) -> Inputs:
    """Text with 15 % of its tokens blanked out by padding (token cutoff, Shen et al. 2020, arXiv 2009.13818).

    Each token (B, L) is drawn for itself, the others keep their places. A text's first token always stays: it may be a class
    token, and so no text is empty. Of tensors by name, ``attention_mask`` is 0 where a token is gone, others stay.
    """
    named = inputs if isinstance(inputs, Mapping) else {TOKEN_IDS: inputs}
    ids = named[TOKEN_IDS]  # (B, L)
    counting = (ids != PADDING) & (named[MASK] != 0) if MASK in named else ids != PADDING
    gone = (torch.rand(ids.shape, generator=generator(seed, "drop tokens")) < DROPPED).to(ids.device)
    gone &= counting & (counting.cumsum(1) > 1)  # neither padding nor the first
    if not isinstance(inputs, Mapping):
        return _blanked(inputs, gone)
    return {name: _blanked(held, gone) if name in (TOKEN_IDS, MASK) else held for name, held in inputs.items()}


def _blanked(tensor: Tensor, gone: Tensor) -> Tensor:
    return tensor.masked_fill(gone, PADDING)
