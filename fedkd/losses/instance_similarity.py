"""Which samples of a batch are alike, as all peers together see it: FCCL+, Huang et al. 2023, arXiv 2309.16286."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.losses.off_diagonal import off_diagonal
from fedkd.losses.precision import at_least_float32
from fedkd.losses.rows import unit_rows
from fedkd.losses.shapes import require_shape


def instance_similarity_loss(student: Tensor, teacher: Tensor, *, temperature: float = 0.02) -> Tensor:
    """KL(teacher || student) between how alike the samples of a batch are, each sample compared with all others::

        s = instance_similarities(student)
        loss = mean_b sum_j p_bj log(p_bj / r_bj),   p = softmax_j(teacher / temperature),   r = softmax_j(s / temperature)

    The teacher is given as cosines, not as embeddings: those of several nets, of any widths, have a mean. The gradient reaches
    the student only.

    Args:
        student: (B, D) embeddings, any float type and length; computed in float32 or better, outside autocast.
        teacher: (B, B - 1) cosines, as of ``instance_similarities``, the same samples in the same order; a constant here.
        temperature: > 0, divides all cosines.

    Returns:
        () float32 or better, at least 0; 0 where the cosines are the teacher's, and for fewer than three samples.

    Raises:
        ValueError: the teacher is not (B, B - 1).

    >>> student = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])  # cosines (1, 0), (1, 0), (0, 0)
    >>> teacher = torch.zeros(3, 2)
    >>> round(instance_similarity_loss(student, teacher, temperature=1 / torch.tensor(3.0).log().item()).item(), 4)
    0.0959
    >>> # (1/2, 1/2) against (3/4, 1/4) in two rows of three: 2/3 log(2 / sqrt 3)
    """
    similarities = instance_similarities(student)
    require_shape("instance_similarity_loss: teacher", teacher, *similarities.shape)
    with torch.autocast(student.device.type, enabled=False):
        log_target = F.log_softmax(at_least_float32(teacher.detach()) / temperature, dim=1)  # (B, B - 1)
        log_student = F.log_softmax(similarities / temperature, dim=1)
        return (log_target.exp() * (log_target - log_student)).sum(1).mean()


def instance_similarities(embeddings: Tensor) -> Tensor:
    """The cosines of each sample with all others of its batch: (B, D) -> (B, B - 1), in float32 or better.

    >>> instance_similarities(torch.tensor([[2.0, 0.0], [0.0, 3.0], [4.0, 0.0]])).tolist()
    [[0.0, 1.0], [0.0, 0.0], [1.0, 0.0]]
    """
    require_shape("instance_similarities: embeddings", embeddings, "B", "D")
    with torch.autocast(embeddings.device.type, enabled=False):
        rows = unit_rows(at_least_float32(embeddings))
        return off_diagonal(rows @ rows.T)
