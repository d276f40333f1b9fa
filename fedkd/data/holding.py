"""A holding: how many samples a client has, of which classes. Numbers only, so it may be told where the samples may not."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Holding:
    """What one client holds, in numbers."""

    train: int  # samples that it trains on
    labelled: int  # those of them whose label may be used
    test: int  # samples of its own test
    train_classes: tuple[int, ...]  # (C,) the labelled training samples by class
