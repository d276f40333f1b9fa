"""What a node tells of its client's data when it joins: numbers and names, never a sample."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, final

import torch

from fedkd.base.errors import InputError
from fedkd.data.holding import Holding
from fedkd.data.kinds.kind import Spread
from fedkd.data.own.form import Form

#: The values of a message: text, numbers, lists of numbers.
Facts = dict[str, Any]
_NUMBERS, _LISTS = ("train", "labelled", "test", "unlabelled", "rows"), ("counts", "mean", "variance")


@final
@dataclass(frozen=True)
class Counts:
    """How many samples a client has, and how their numbers spread. Not told under [privacy]."""

    train: int  # samples that it trains on
    labelled: int  # those of them whose label may be used
    test: int  # samples of its own test
    unlabelled: int  # all without a label
    counts: tuple[int, ...]  # (C,) all samples by class
    rows: int = 0  # those that mean and variance are of: all, where inputs are normalised by everybody's moments
    mean: tuple[float, ...] = ()
    variance: tuple[float, ...] = ()
    content: str = ""  # a hex digest of all samples and labels

    @property
    def spread(self) -> Spread:
        """Mean and variance, as they can be put together with those of others."""
        return Spread(self.rows, *(torch.tensor(numbers, dtype=torch.float64) for numbers in (self.mean, self.variance)))

    @property
    def holding(self) -> Holding:
        """The same, as it is recorded; classes are those of test samples too."""
        return Holding(train=self.train, labelled=self.labelled, test=self.test, train_classes=self.counts)


@final
@dataclass(frozen=True)
class Told:
    """One node's answer."""

    form: Form
    vocabulary: int  # of tokens: how many ids occur; 0 where that is not told
    counts: Counts | None

    def to_facts(self) -> Facts:
        """As it travels."""
        facts: Facts = {"form": self.form.to_text(), "vocabulary": self.vocabulary}
        if self.counts is None:
            return facts
        held = vars(self.counts)
        return facts | {name: held[name] for name in (*_NUMBERS, "content")} | {name: list(held[name]) for name in _LISTS}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any], *, classes: int, counted: bool) -> Self:
        """What a node says, checked: it may be a stranger's.

        Args:
            facts: as ``to_facts`` makes them.
            classes: how many there are.
            counted: whether the node owes counts.

        Raises:
            InputError: a fact is missing, or contradicts itself.
        """
        form, vocabulary = Form.from_text(str(facts.get("form", ""))), _number(facts, "vocabulary")
        if not counted:
            return cls(form, vocabulary, None)
        numbers = {name: _number(facts, name) for name in _NUMBERS}
        lists = {name: _list(facts, name) for name in _LISTS}
        held = Counts(**numbers, **lists, content=str(facts.get("content", ""))[:64])  # type: ignore[arg-type]
        if len(held.counts) != classes or any(count != int(count) for count in held.counts):
            raise InputError(f"it counts the samples of {len(held.counts)} classes, and there are {classes}")
        if len(held.mean) != len(held.variance) or min(held.variance, default=0) < 0:
            raise InputError(f"it tells {len(held.mean)} means and {len(held.variance)} variances")
        if held.labelled > held.train or not held.train:
            raise InputError(f"it tells of {held.train} training samples, {held.labelled} of them labelled")
        return cls(form, vocabulary, held)


def _number(facts: Mapping[str, Any], name: str) -> int:
    if type(value := facts.get(name)) is not int or value < 0:
        raise InputError(f"its number {name!r} is {str(value)[:40]}: give all nodes the same fedkd")
    return value


def _list(facts: Mapping[str, Any], name: str) -> tuple[float, ...]:
    value = facts.get(name)
    if not isinstance(value, Sequence) or any(type(each) not in (int, float) or not math.isfinite(each) for each in value):
        raise InputError(f"its numbers {name!r} are {str(value)[:40]}: give all nodes the same fedkd")
    return tuple(value)
