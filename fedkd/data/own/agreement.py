"""What all nodes agree on before round 1, where each has its own data: it goes with every message, so no node need keep it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, final

import torch

from fedkd.base.errors import InputError
from fedkd.data.kinds import NO_MOMENTS, Moments
from fedkd.data.kinds.kind import pooled
from fedkd.data.own.told import Told

ODD = "the message does not say what classes and moments all agree on: give all nodes the same fedkd"


@final
@dataclass(frozen=True)
class Agreement:
    """Class names, and what follows from all clients' data together."""

    classes: tuple[str, ...]
    mean: tuple[float, ...] = ()  # of all clients' samples; empty where inputs are normalised otherwise
    std: tuple[float, ...] = ()
    vocabulary: int = 0  # of tokens: how many ids there are
    most_labelled: int = 0  # labelled training samples of the client that has the most

    @property
    def moments(self) -> Moments:
        """Mean and standard deviation in float32."""
        return Moments(torch.tensor(self.mean), torch.tensor(self.std)) if self.mean else NO_MOMENTS

    def to_facts(self) -> dict[str, Any]:
        """As it travels. Empty lists do not."""
        held = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        return {name: value for name, value in held.items() if value}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Self:
        """Undoes ``to_facts``. InputError for what it does not write."""
        lists = [facts.get(name, []) for name in ("classes", "mean", "std")]
        vocabulary, most = (facts.get(name, 0) for name in ("vocabulary", "most_labelled"))
        if not all(isinstance(each, list) for each in lists) or not type(vocabulary) is type(most) is int:
            raise InputError(ODD)
        classes, mean, std = map(tuple, lists)
        right = all(type(name) is str for name in classes) and all(type(number) is float for number in (*mean, *std))
        if not right or len(mean) != len(std):
            raise InputError(ODD)
        return cls(classes, mean, std, vocabulary, most)


def agreed(classes: tuple[str, ...], told: Sequence[Told], *, everyones_moments: bool, vocabulary: int = 0) -> Agreement:
    """The agreement that follows from what the clients told, in order of client id.

    ``everyones_moments``: whether inputs are normalised by the moments of all clients' samples together; ``vocabulary``: of the
    server's own tokens.
    """
    counts = [each.counts for each in told if each.counts is not None]
    moments = pooled([each.spread for each in counts]).moments() if everyones_moments and counts else NO_MOMENTS
    standardised = len(moments.mean) > 0
    return Agreement(
        classes,
        mean=tuple(moments.mean.tolist()),
        std=tuple(moments.std.tolist()) if standardised else (),
        vocabulary=max(vocabulary, *(each.vocabulary for each in told)),
        most_labelled=max((each.labelled for each in counts), default=0),
    )
