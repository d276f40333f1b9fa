"""The Dirichlet partition: every client gets a drawn share of each class (Yurochkin et al., ICML 2019, arXiv 1905.12022).

The draw is that of flwr-datasets' ``DirichletPartitioner``, to the last sample. It stands here because most experiments deal
out so, and importing flwr-datasets takes longer than importing torch: it brings pandas, SciPy and seaborn.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedkd.base.errors import InputError

DRAWS = 11  # at most, where each leaves a client with too few


def dirichlet(
    labels: NDArray[np.int64],
    alpha: NDArray[np.float64],
    *,
    min_partition_size: int,
    self_balancing: bool,
    shuffle: bool,
    seed: int,
) -> list[NDArray[np.int64]]:
    """The rows of each part.

    Args:
        labels: (N,), numbered from 0 without gaps.
        alpha: (clients,), above 0: the smaller, the fewer classes a part has.
        min_partition_size: draw again where a part has fewer rows than this.
        self_balancing: a part that has more rows than the mean gets nothing of the classes that follow.
        shuffle: within each part; else its rows stand class by class.
        seed: of all draws.

    Raises:
        InputError: no draw gave every part enough.
    """
    rng = np.random.default_rng(seed)
    for _ in range(DRAWS):
        parts = _divide(labels, alpha, rng, balanced=self_balancing)
        if min(map(len, parts)) >= min_partition_size:
            break
    else:
        raise InputError(
            f"data.partition 'dirichlet': none of {DRAWS} draws gave each of {len(alpha)} clients {min_partition_size} of "
            f"{len(labels)} samples; raise alpha, lower min_partition_size, or set self_balancing = true"
        )
    if shuffle:
        for part in parts:
            rng.shuffle(part)
    return [np.asarray(part, dtype=np.int64) for part in parts]


def _divide(
    labels: NDArray[np.int64], alpha: NDArray[np.float64], rng: np.random.Generator, *, balanced: bool
) -> list[list[int]]:
    parts: list[list[int]] = [[] for _ in alpha]
    for label in range(labels.max() + 1):
        rows = np.flatnonzero(labels == label)
        shares = rng.dirichlet(alpha)
        if balanced:
            shares[[len(part) > len(labels) / len(alpha) for part in parts]] = 0
            shares = shares / sum(shares)  # one after the other, as NumPy's sum would round otherwise
        cuts = (np.cumsum(shares) * len(rows)).astype(int)[:-1]
        for part, more in zip(parts, np.split(rows, cuts), strict=True):
            part.extend(more.tolist())
    return parts
