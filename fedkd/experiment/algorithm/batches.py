"""How many batches a training takes, and how large they are."""

from __future__ import annotations

from fedkd.experiment.algorithm.sections import Training


def batch_sizes(samples: int, batch_size: int) -> list[int]:
    """The sizes of an epoch's batches: batch statistics of one sample say nothing, so the last never is one alone.

    >>> batch_sizes(7, 3), batch_sizes(8, 3)
    ([3, 4], [3, 3, 2])
    """
    sizes = [min(batch_size, samples - start) for start in range(0, samples, batch_size)]
    return sizes if len(sizes) < 2 or sizes[-1] > 1 else [*sizes[:-2], sizes[-2] + 1]


def batches_a_round(samples: int, settings: Training, batch_size: int = 0) -> int:
    """How many batches a round's training takes: ``train.steps``, or those of ``train.epochs``, one at least."""
    if not samples:
        return 0
    epoch = len(batch_sizes(samples, batch_size or settings.batch_size))
    return settings.steps or max(1, round(settings.epochs * epoch))
