"""A small transformer for text: token vectors and positions, encoder blocks, and a class token that reads the text."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from fedkd.base.errors import InputError
from fedkd.base.inputs import Shape
from fedkd.nets.encoder import Chain, Encoder
from fedkd.nets.options import check_sizes
from fedkd.nets.tokens import are_tokens, length_of, token_vectors, without_masked


class Transformer(Encoder):
    """Blocks of attention over the tokens of a text and, behind them, a class token, whose last state is the feature.

    Vaswani et al. 2017, arXiv 1706.03762, with the norm before each part of a block (arXiv 2002.04745) and learned positions.
    Padding (token 0, or where ``attention_mask`` is 0) is seen by no other token.

    Args:
        shape: (L,) of tokens.
        width: D, of the token vectors and of the feature.
        depth: blocks.
        heads: of the attention; they share the width.
        causal: whether a token sees only itself and those before it; the class token sees all.
        dropout: share of the activations that are dropped in training.
        vocabulary: how many token ids there are.
    """

    one_part: ClassVar[str] = "net 'transformer' with one block has no trunk to share: give it a depth of two"
    samples: ClassVar[str] = "tokens (L,)"
    example_shape: ClassVar[tuple[int, ...]] = (16,)
    example_vocabulary: ClassVar[int] = 2

    def __init__(
        self,
        shape: Shape,
        *,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        causal: bool = False,
        dropout: float = 0.0,
        vocabulary: int = 0,
    ) -> None:
        super().__init__()
        for option, size in (("width", width), ("depth", depth), ("heads", heads), ("vocabulary", vocabulary)):
            check_sizes("transformer", option, size)
        if width % heads:
            raise InputError(f"net 'transformer': {heads} heads cannot share a width of {width}: make it a multiple of heads")
        if type(causal) is not bool:
            raise InputError(f"net 'transformer': causal must be true or false, not {causal!r}")
        if type(dropout) not in (int, float) or not 0 <= dropout < 1:
            raise InputError(f"net 'transformer': dropout must be a number from 0 to below 1, not {dropout!r}")
        self.stem = _Stem(length_of(shape), width, vocabulary, dropout)
        self.blocks = nn.ModuleList(_Block(width, heads, dropout, causal) for _ in range(depth))
        self.last = _Last(width)
        self.out_features = width

    @classmethod
    def takes(cls, shape: Shape, vocabulary: int = 0) -> bool:
        """Tokens, alone or by name."""
        return are_tokens(shape, vocabulary)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Features (B, D) of tokens (B, L)."""
        return self.stages(input_ids, attention_mask)[1]

    def stages(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[tuple[Tensor, ...], Tensor]:
        """The tokens' states after every block (B, D, L, 1), padding 0, and the features (B, D)."""
        held, maps = self.stem(input_ids, attention_mask), []
        for block in self.blocks:
            held = block(held)
            maps.append(held[:, :, :-1])
        features: Tensor = self.last(held)
        return tuple(maps), features

    def in_parts(self) -> tuple[nn.Module, ...]:
        """Each block, tokens (B, L) -> (B, D, L + 1, 1), the class token last; the first with the stem."""
        blocks: list[nn.Module] = [*self.blocks]
        blocks[0] = Chain([self.stem, blocks[0]])
        return *blocks[:-1], Chain([blocks[-1], self.last])


class _Stem(nn.Module):
    """Tokens (B, L) -> states (B, D, L + 1, 1): their vectors and positions, padding 0, and the class token behind them."""

    def __init__(self, length: int, width: int, vocabulary: int, dropout: float) -> None:
        super().__init__()
        self.tokens = token_vectors(vocabulary, width, 0.1)
        drawn = torch.empty(length + 1, width)
        if not drawn.is_meta:  # there, normal_ imports torch's compiler
            drawn.normal_(0, 0.1)
        self.positions = nn.Parameter(drawn)  # (L + 1, D); the last one is the class token
        self.dropout = nn.Dropout(dropout)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        ids = without_masked(input_ids, attention_mask)
        states = (self.tokens(ids) + self.positions[:-1]).masked_fill((ids == 0).unsqueeze(2), 0.0)  # (B, L, D)
        states = torch.cat([states, self.positions[-1].expand(len(ids), 1, -1)], dim=1)  # (B, L + 1, D)
        dropped: Tensor = self.dropout(states)
        return _map_of(dropped)


class _Block(nn.Module):
    """One block of attention: states (B, D, S, 1) -> the same. Padding is where all D numbers are 0, and stays so."""

    def __init__(self, width: int, heads: int, dropout: float, causal: bool) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.heads, self.causal = heads, causal

    def forward(self, held: Tensor) -> Tensor:
        states = held.squeeze(3).transpose(1, 2)  # (B, S, D)
        padding = (states == 0).all(2)  # (B, S)
        mask: Tensor | None = None
        key_padding: Tensor | None = padding
        if self.causal:
            own = torch.eye(states.shape[1], dtype=torch.bool, device=states.device)
            later = torch.ones_like(own).triu(1)  # padding sees itself: attention to nothing at all has no numbers
            mask = ((later | padding.unsqueeze(1)) & ~own).repeat_interleave(self.heads, dim=0)  # (B * heads, S, S)
            key_padding = None
        after = self.layer(states, src_mask=mask, src_key_padding_mask=key_padding)
        return _map_of(after.masked_fill(padding.unsqueeze(2), 0.0))


class _Last(nn.Module):
    """The class token's state, normed: (B, D, S, 1) -> (B, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, held: Tensor) -> Tensor:
        features: Tensor = self.norm(held[:, :, -1, 0])
        return features


def _map_of(states: Tensor) -> Tensor:
    """(B, S, D) -> (B, D, S, 1), as feature maps lie."""
    return states.transpose(1, 2).unsqueeze(3)
