"""A small convolutional net over time: for signals, and for text by a table of token vectors (a character CNN)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.base.errors import InputError, did_you_mean
from fedkd.base.inputs import Shape
from fedkd.nets.encoder import Encoder
from fedkd.nets.options import check_sizes, check_tuple
from fedkd.nets.tokens import are_tokens, length_of, token_vectors, without_masked


class CNN1d(Encoder):
    """Convolutions over time, each with a ReLU and max-pooling of 2, and a hidden layer; its output after ReLU is the feature.

    Tokens become vectors first; with characters as tokens it is the character CNN of Zhang et al. 2015, arXiv 1509.01626,
    in small.

    Args:
        shape: (L, F) of a signal, or (L,) of tokens.
        channels: of each convolution, one after the other.
        kernel: steps that a convolution sees; the length stays as it is.
        embedding: width of the token vectors; of signals it says nothing.
        hidden: D, the width of the feature.
        norm: "none", or "batch", a BatchNorm after every convolution.
        vocabulary: how many token ids there are; 0 of signals.
    """

    one_part: ClassVar[str] = "net 'cnn1d' with one convolution has no trunk to share: give channels two numbers or more"
    samples: ClassVar[str] = "signals (L, F) or tokens (L,)"
    example_shape: ClassVar[tuple[int, ...]] = (512, 1)

    def __init__(
        self,
        shape: Shape,
        *,
        channels: tuple[int, ...] = (32, 64),
        kernel: int = 5,
        embedding: int = 16,
        hidden: int = 64,
        norm: str = "none",
        vocabulary: int = 0,
    ) -> None:
        super().__init__()
        check_tuple("cnn1d", "channels", channels)
        for option, size in (("kernel", kernel), ("embedding", embedding), ("hidden", hidden)):
            check_sizes("cnn1d", option, size)
        if norm not in NORMS:
            raise InputError(f"net 'cnn1d': norm {norm!r} is unknown: {did_you_mean(str(norm), NORMS)}")
        length = length_of(shape)
        pooled = length >> len(channels)
        if pooled < 1:
            raise InputError(
                f"net 'cnn1d': samples of length {length} are too short for {len(channels)} convolutions, each halving the "
                "length: take fewer channels"
            )
        self.embedding = token_vectors(vocabulary, embedding, 1.0) if vocabulary else None
        widths = (embedding if vocabulary else _features(shape), *channels)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(before, after, kernel, padding="same") for before, after in zip(widths, channels, strict=False)
        )
        self.norms = nn.ModuleList(NORMS[norm](after) for after in channels)
        self.hidden = nn.Linear(widths[-1] * pooled, hidden)
        self.out_features = hidden

    @classmethod
    def takes(cls, shape: Shape, vocabulary: int = 0) -> bool:
        """Signals, and tokens alone or by name."""
        return are_tokens(shape, vocabulary) if vocabulary else not isinstance(shape, Mapping) and len(shape) == 2

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Features (B, D) of signals (B, L, F), or of tokens (B, L)."""
        return self.stages(input_ids, attention_mask)[1]

    def stages(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[tuple[Tensor, ...], Tensor]:
        """The pooled output of every convolution (B, channels, l, 1), and the features (B, D)."""
        x, maps = _over_time(self.embedding, input_ids, attention_mask), []
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            pooled = F.max_pool1d(norm(convolution(x)), 2)
            maps.append(pooled.unsqueeze(3))
            x = F.relu(pooled)  # as pooling after the ReLU, on half of the values
        return tuple(maps), F.relu(self.hidden(x.flatten(1)))

    def in_parts(self) -> tuple[nn.Module, ...]:
        """Each convolution, giving its map (B, channels, l, 1) after ReLU; the last one with the hidden layer."""
        stages = zip(self.convolutions, self.norms, strict=True)
        first, *rest = (nn.Sequential(convolution, norm, nn.MaxPool1d(2), nn.ReLU()) for convolution, norm in stages)
        ways: list[nn.Module] = [_First(self.embedding, first)]
        ways += [nn.Sequential(nn.Flatten(2), each, nn.Unflatten(2, (-1, 1))) for each in rest]
        return *ways[:-1], nn.Sequential(ways[-1], nn.Flatten(), self.hidden, nn.ReLU())


class _First(nn.Module):
    """From samples to the map of the first convolution."""

    def __init__(self, embedding: nn.Embedding | None, convolution: nn.Module) -> None:
        super().__init__()
        self.embedding, self.convolution = embedding, convolution

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Signals (B, L, F) or tokens (B, L) -> (B, channels, l, 1)."""
        held: Tensor = self.convolution(_over_time(self.embedding, input_ids, attention_mask))
        return held.unsqueeze(3)


def _over_time(embedding: nn.Embedding | None, samples: Tensor, attention_mask: Tensor | None) -> Tensor:
    """(B, F, L), as convolutions take it, of signals (B, L, F) or tokens (B, L)."""
    return (samples if embedding is None else embedding(without_masked(samples, attention_mask))).transpose(1, 2)


def _features(shape: Shape) -> int:
    assert not isinstance(shape, Mapping)
    return tuple(shape)[1]


NORMS: dict[str, Callable[[int], nn.Module]] = {"none": lambda channels: nn.Identity(), "batch": nn.BatchNorm1d}
