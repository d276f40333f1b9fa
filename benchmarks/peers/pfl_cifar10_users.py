"""Who holds what in pfl's CIFAR-10 benchmark, drawn by pfl 0.6.

    python pfl_cifar10_users.py FILE ALPHA SEED OUT     # OUT.npy: whose each image is; ALPHA 0: all classes alike

FILE is an .npz with ``train_labels``. The benchmark's own files read CIFAR-10 as rows of pixels, though it is stored channel
after channel, so its images are scrambled; here they are not.
"""

from __future__ import annotations

import sys

import numpy as np
from pfl.data.partition import partition_by_dirichlet_class_distribution

SAMPLES = 50


def draw_users(file: str, alpha: float, seed: int, out: str) -> None:
    """Users of 50 images each, as pfl's benchmark makes them; -1: of a Dirichlet draw some images may be nobody's."""
    np.random.seed(seed)
    with np.load(file) as arrays:
        labels = arrays["train_labels"]
    order = np.random.permutation(len(labels))
    if alpha:
        users = [order[rows] for rows in partition_by_dirichlet_class_distribution(labels[order], alpha, lambda: SAMPLES)]
    else:
        users = np.split(order, len(order) // SAMPLES)
    groups = np.full(len(labels), -1)
    for user, rows in enumerate(users):
        groups[rows] = user
    np.save(out, groups)


if __name__ == "__main__":
    draw_users(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
