"""A similarity matrix without its diagonal: what a row thinks of the others."""

from __future__ import annotations

from torch import Tensor


def off_diagonal(matrix: Tensor) -> Tensor:
    """Every row without its own column: (B, B) -> (B, B - 1), and (1, 1) -> (1, 0).

    Taken out rather than masked by -inf: a row that has no other candidate then has an empty softmax, not one of NaN.

    >>> import torch
    >>> off_diagonal(torch.arange(9).view(3, 3)).tolist()
    [[1, 2], [3, 5], [6, 7]]
    """
    rows = len(matrix)
    # Behind the first element, the diagonal is the last column of a matrix one wider.
    return matrix.flatten()[1:].view(rows - 1, rows + 1)[:, :-1].reshape(rows, rows - 1)
