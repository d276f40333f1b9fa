"""Contrastive representation distillation: Tian et al. 2020, arXiv 1910.10699, with the estimator of the authors' code."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.losses.shapes import require_shape

#: Added to the noise's share in the denominators, as in the authors' code.
EPS = 1e-7


class CRDLoss(nn.Module):
    """Noise-contrastive estimation between a student's and a teacher's embeddings of a data set of N samples.

    Both features go through a linear layer and to length 1: e_s and e_t. Two banks hold every sample's last embeddings. The
    student's embedding of sample i meets, in the teacher's bank, its own row v_0 and K rows of other samples::

        x_j = exp(e_s . v_j / temperature) / Z
        loss_s = -mean_b [ log(x_0 / (x_0 + K/N + eps)) + sum_{j=1..K} log((K/N) / (x_j + K/N + eps)) ]

    and the teacher's embedding meets the student's bank in loss_t; the loss is loss_s + loss_t. Z, one for each bank, is N
    times the mean of exp(e . v / temperature) over the first batch in training, and never changes after. After the loss, in
    training only, the batch's rows of the banks become momentum * row + (1 - momentum) * e, of length 1 again.

    With ``labels`` the negatives are of other classes (the authors' mode "exact"), drawn without replacement where every class
    leaves K samples and with it otherwise. Without, they are drawn with replacement from all samples but the anchor's own.

    Memory: 8 * N * dim bytes for the banks, as much again for the copies that the backward pass needs, and 8 * B * N for scores
    with whole banks, of which the candidates' are taken. Rows gathered for each anchor would take 8 * B * (K + 1) * dim: with
    N = 50,000, B = 64, K = 16,384 and dim = 128 that is 1.1 GB instead of 0.13. Computed in log space in the parameters' type,
    outside autocast: keep the module in float32 or float64. Banks and Z are in the state_dict, the labels are not.

    Args:
        student_dim: width of the student's features.
        teacher_dim: width of the teacher's features.
        samples: N >= 2, the size of the training set.
        labels: (N,) class ids of the training set, or None.
        dim: width of the embeddings.
        negatives: K.
        temperature: > 0, divides cosines.
        momentum: in 0 .. 1, what a row of a bank keeps of itself.

    Raises:
        ValueError: fewer than two samples, not one label for each, or labels of one class only.

    >>> crd = CRDLoss(4, 6, samples=10, negatives=5)
    >>> _ = crd.student_bank.zero_(), crd.teacher_bank.zero_()  # all alike: x = 1/N, the loss of guessing
    >>> loss = crd(torch.randn(3, 4), torch.randn(3, 6), torch.tensor([0, 4, 9]))
    >>> round(loss.item(), 4)  # 2 (log(1 + K) + K log(1 + 1/K))
    5.4067
    """

    student_bank: Tensor
    teacher_bank: Tensor
    log_partition: Tensor
    labels: Tensor | None

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        samples: int,
        *,
        labels: Tensor | None = None,
        dim: int = 128,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
    ) -> None:
        super().__init__()
        if samples < 2:
            raise ValueError(f"CRDLoss: {samples} samples have no negatives; it takes at least 2")
        self.samples, self.negatives = samples, negatives
        self.temperature, self.momentum = temperature, momentum
        self.replacement = negatives > _fewest_others(labels, samples)
        self.student_embedding = nn.Linear(student_dim, dim)
        self.teacher_embedding = nn.Linear(teacher_dim, dim)
        bound = math.sqrt(3 / dim)  # rows of expected squared length 1
        self.register_buffer("student_bank", torch.empty(samples, dim).uniform_(-bound, bound))
        self.register_buffer("teacher_bank", torch.empty(samples, dim).uniform_(-bound, bound))
        self.register_buffer("log_partition", torch.full((2,), torch.nan))  # log Z, unknown before the first batch
        self.register_buffer("labels", labels, persistent=False)

    def forward(self, student: Tensor, teacher: Tensor, ids: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """The loss, and in training the update of banks and Z; gradient to the student and to both linear layers.

        Args:
            student: (B, D_s) features, any float type.
            teacher: (B, D_t) of the same samples, in the same order; a constant here.
            ids: (B,) int64 positions in 0 .. N - 1 of the samples in the training set, each once, on the module's device.
            rng: draws the negatives, on the same device; torch's own without.

        Returns:
            () float32 or better, at least 0.

        Raises:
            ValueError: another width or number of samples.
            IndexError, RuntimeError: an id that is not a position, with labels and without.
        """
        require_shape("CRDLoss: student", student, "B", self.student_embedding.in_features)
        require_shape("CRDLoss: teacher", teacher, len(student), self.teacher_embedding.in_features)
        require_shape("CRDLoss: ids", ids, len(student))
        dtype = self.student_bank.dtype
        with torch.autocast(student.device.type, enabled=False):
            student = F.normalize(self.student_embedding(student.to(dtype)), dim=1)  # (B, dim)
            teacher = F.normalize(self.teacher_embedding(teacher.detach().to(dtype)), dim=1)  # (B, dim)
            candidates = torch.cat([ids[:, None], self.draw(ids, rng)], dim=1)  # (B, 1 + K)
            # Copies, because the banks change before the backward pass reads them.
            cosines = torch.stack([student @ self.teacher_bank.clone().T, teacher @ self.student_bank.clone().T])  # (2, B, N)
            scores = cosines.gather(2, candidates.expand(2, -1, -1)) / self.temperature  # (2, B, 1 + K)
            log_x = scores - self._log_partition(scores.detach())[:, None, None]
            if self.training:
                self._remember(self.student_bank, ids, student.detach())
                self._remember(self.teacher_bank, ids, teacher.detach())
            return self._estimate(log_x)

    def draw(self, ids: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """Positions of K negatives for each of the samples: (B,) -> (B, K)."""
        if self.labels is None:
            steps = torch.randint(1, self.samples, (len(ids), self.negatives), generator=rng, device=ids.device)
            return (ids[:, None] + steps) % self.samples  # any sample but the own one
        others = (self.labels != self.labels[ids, None]).float()  # (B, N)
        return torch.multinomial(others, self.negatives, replacement=self.replacement, generator=rng)

    def _log_partition(self, scores: Tensor) -> Tensor:
        """(2,) log Z; the first batch of training sets it: scores (2, B, 1 + K)."""
        mean = scores.flatten(1).logsumexp(1) - math.log(scores[0].numel())
        log_z = torch.where(self.log_partition.isnan(), mean + math.log(self.samples), self.log_partition)
        if self.training:
            self.log_partition.copy_(log_z)
        return log_z

    def _estimate(self, log_x: Tensor) -> Tensor:
        """Both sides' loss from log x (2, B, 1 + K), own row first."""
        noise = self.negatives / self.samples
        log_total = torch.logaddexp(log_x, torch.full_like(log_x, math.log(noise + EPS)))  # (2, B, 1 + K)
        own = log_x[:, :, 0] - log_total[:, :, 0]  # (2, B)
        others = math.log(noise) - log_total[:, :, 1:]  # (2, B, K)
        return -(own.sum() + others.sum()) / log_x.shape[1]

    def _remember(self, bank: Tensor, ids: Tensor, rows: Tensor) -> None:
        """Move a bank's rows towards embeddings (B, dim)."""
        mixed = self.momentum * bank[ids] + (1 - self.momentum) * rows
        bank.index_copy_(0, ids, F.normalize(mixed, dim=1))


def _fewest_others(labels: Tensor | None, samples: int) -> int:
    """How many samples of other classes the largest class leaves; without labels, all other samples."""
    if labels is None:
        return samples - 1
    require_shape("CRDLoss: labels", labels, samples)
    others = samples - int(labels.unique(return_counts=True)[1].max())
    if others == 0:
        raise ValueError("CRDLoss: all labels are of one class, so no sample has a negative")
    return others
