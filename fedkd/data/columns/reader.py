"""How the samples of a table are read: a reader for each kind of column."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from torch import Tensor

from fedkd.base.inputs import Inputs
from fedkd.data.columns.arrow import Part


@dataclass(frozen=True)
class Read:
    """What a reader has read."""

    train: Inputs
    test: Inputs | None  # where there is a test split
    said: list[str] = field(default_factory=list)  # what is worth a Notice
    vocabulary: int = 0  # of tokens
    features: tuple[str, ...] = ()  # what the numbers stand for


class Reader(ABC):
    """The samples of some columns."""

    columns: tuple[str, ...]
    """Their names."""

    @abstractmethod
    def read(self, train: Part, test: Part | None, kept: Tensor) -> Read:
        """All samples of both splits.

        Args:
            train: the training split.
            test: the test split, where there is one.
            kept: rows of the training split that are trained on; the others are held out as test samples.
        """
