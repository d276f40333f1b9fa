"""Distillation with self-supervision as auxiliary task: SSKD, Xu et al. 2020, arXiv 2006.07114."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.losses.distillation import kd_loss
from fedkd.losses.shapes import require_shape

ROTATIONS = 4


def rotations(images: Tensor) -> Tensor:
    """Each image four times, turned counter-clockwise by 0, 90, 180 and 270 degrees.

    Args:
        images: (B, c, h, h).

    Returns:
        (4B, c, h, h), interleaved: row 4 i + r is image i turned r times.

    Raises:
        ValueError: images that are not square.

    >>> rotations(torch.tensor([[[[1, 2], [3, 4]]]])).flatten(1).tolist()
    [[1, 2, 3, 4], [2, 4, 1, 3], [4, 3, 2, 1], [3, 1, 4, 2]]
    """
    require_shape("rotations: images", images, "B", "c", "h", images.shape[-2])
    return torch.stack([images.rot90(turns, (2, 3)) for turns in range(ROTATIONS)], dim=1).flatten(0, 1)


class SSKDLoss(nn.Module):
    """The student imitates the teacher's predictions on upright and rotated images, and how it recognises them after rotation.

    Of a batch from ``rotations``, upright rows are 4 i, the rest is rotated. Features go through a head of two layers, one for
    the student and one for the teacher, and S (3B, B) holds the cosines of rotated with upright samples::

        kd = T^2 KL(teacher || student) of the logits of upright images            T = kd_temperature
        tf = T^2 KL(teacher || student) of the logits of rotated images            T = tf_temperature
        ss = T^2 KL(softmax_j(S_t / T) || softmax_j(S_s / T))                      T = ss_temperature
        loss = kd_weight * kd + tf_weight * tf + ss_weight * ss

    each a mean over rows. tf and ss leave out what the teacher gets most wrong: rows are ordered by the rank of the true
    answer, the class for tf and the sample's own upright image for ss; those of rank 0 are kept, and of the others the first
    floor(ratio * their number). Ties in rank go by position, where the official code leaves it to the sort. A term that keeps
    no row is 0. Cross-entropy of upright images, official weight 0.1, is the caller's.

    The teacher's head has to be trained first, for 60 epochs, with ``teacher_head_loss``; ``forward`` does not train it. S is
    computed in the parameters' type, outside autocast: keep the module in float32 or float64.

    Args:
        student_dim: D_s, width of the student's features.
        teacher_dim: D_t, width of the teacher's features.
        kd_weight: of kd.
        tf_weight: of tf.
        ss_weight: of ss.
        kd_temperature: > 0.
        tf_temperature: > 0.
        ss_temperature: > 0.
        tf_ratio: in 0 .. 1, the share of rows kept for tf of those that the teacher classifies wrongly.
        ss_ratio: in 0 .. 1, the share of rows kept for ss of those that the teacher does not match to their image.

    >>> sskd, rows = SSKDLoss(2, 2), torch.randn(8, 2)
    >>> _ = sskd.student_head.load_state_dict(sskd.teacher_head.state_dict())
    >>> sskd(rows, rows, rows, rows, torch.tensor([0, 1])).item()  # the student is the teacher
    0.0
    """

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        *,
        kd_weight: float = 0.9,
        tf_weight: float = 2.7,
        ss_weight: float = 10.0,
        kd_temperature: float = 4.0,
        tf_temperature: float = 4.0,
        ss_temperature: float = 0.5,
        tf_ratio: float = 1.0,
        ss_ratio: float = 0.75,
    ) -> None:
        super().__init__()
        self.weights = {"kd": kd_weight, "tf": tf_weight, "ss": ss_weight}
        self.temperatures = {"kd": kd_temperature, "tf": tf_temperature, "ss": ss_temperature}
        self.tf_ratio, self.ss_ratio = tf_ratio, ss_ratio
        self.student_dim, self.teacher_dim = student_dim, teacher_dim
        self.student_head = _head(student_dim)
        self.teacher_head = _head(teacher_dim)

    def forward(
        self,
        student_logits: Tensor,
        student_features: Tensor,
        teacher_logits: Tensor,
        teacher_features: Tensor,
        labels: Tensor,
    ) -> Tensor:
        """The weighted sum of ``parts``, which has the same arguments; gradient to the student and its head.

        Args:
            student_logits: (4B, C), any float type.
            student_features: (4B, D_s), any float type.
            teacher_logits: (4B, C) of the same images, in the same order; a constant here.
            teacher_features: (4B, D_t), a constant here.
            labels: (B,) int64 class ids in 0 .. C - 1.

        Returns:
            () float32 or better, at least 0.

        Raises:
            ValueError: a wrong shape.
        """
        parts = self.parts(student_logits, student_features, teacher_logits, teacher_features, labels)
        return torch.stack([self.weights[name] * part for name, part in parts.items()]).sum()

    def parts(
        self,
        student_logits: Tensor,
        student_features: Tensor,
        teacher_logits: Tensor,
        teacher_features: Tensor,
        labels: Tensor,
    ) -> dict[str, Tensor]:
        """The terms kd, tf and ss, not weighted; arguments and errors as of ``forward``."""
        rows = ROTATIONS * len(labels)
        require_shape("SSKDLoss: student logits", student_logits, rows, "C")
        require_shape("SSKDLoss: teacher logits", teacher_logits, *student_logits.shape)
        require_shape("SSKDLoss: student features", student_features, rows, self.student_dim)
        require_shape("SSKDLoss: teacher features", teacher_features, rows, self.teacher_dim)
        own = self._recognition(self.student_head, student_features)  # (3B, B)
        target = self._recognition(self.teacher_head, teacher_features.detach()).detach()  # (3B, B)
        rotated_student, rotated_teacher = _rotated(student_logits), _rotated(teacher_logits.detach())  # (3B, C)
        known = most_correct(rotated_teacher, labels.repeat_interleave(ROTATIONS - 1), self.tf_ratio)
        matched = most_correct(target, _images(target), self.ss_ratio)
        upright = torch.arange(0, rows, ROTATIONS, device=labels.device)
        return {
            "kd": _imitation(student_logits, teacher_logits, upright, self.temperatures["kd"]),
            "tf": _imitation(rotated_student, rotated_teacher, known, self.temperatures["tf"]),
            "ss": _imitation(own, target, matched, self.temperatures["ss"]),
        }

    def teacher_head_loss(self, teacher: Tensor) -> Tensor:
        """Cross-entropy of the teacher's S, without a temperature, against each rotated sample's upright one.

        Args:
            teacher: (4B, D_t) features, interleaved as of ``rotations``, any float type; a constant here.

        Returns:
            () float32 or better; the gradient reaches the teacher's head only.

        Raises:
            ValueError: another width, or rows that are not whole images.
        """
        require_shape("SSKDLoss: teacher", teacher, "4B", self.teacher_dim)
        if len(teacher) % ROTATIONS:
            raise ValueError(f"SSKDLoss: {len(teacher)} rows are not {ROTATIONS} rotations of each image")
        recognition = self._recognition(self.teacher_head, teacher.detach())
        return F.cross_entropy(recognition, _images(recognition))

    def _recognition(self, head: nn.Sequential, features: Tensor) -> Tensor:
        """S: cosines of rotated with upright samples, (4B, D) -> (3B, B)."""
        with torch.autocast(features.device.type, enabled=False):
            rows = F.normalize(head(features.to(next(head.parameters()).dtype)), dim=1)  # (4B, D)
            return _rotated(rows) @ rows[::ROTATIONS].T


def most_correct(scores: Tensor, answers: Tensor, ratio: float) -> Tensor:
    """Positions of the rows whose true answer scores highest, and of ``ratio`` of the others, least wrong first.

    >>> scores = torch.tensor([[0.0, 2.0, 1.0], [5.0, 1.0, 0.0], [1.0, 2.0, 0.0]])  # ranks of answer 0: 2, 0, 1
    >>> most_correct(scores, torch.tensor([0, 0, 0]), 0.5).tolist()  # one of the two wrong ones
    [1, 2]
    """
    rank = (scores > scores.gather(1, answers[:, None])).sum(1)  # (rows,)
    wrong = int(rank.count_nonzero())
    kept = len(rank) - wrong + int(ratio * wrong)
    return rank.argsort(stable=True)[:kept]


def _imitation(student: Tensor, teacher: Tensor, kept: Tensor, temperature: float) -> Tensor:
    """The distillation loss over some rows; a mean over none is 0."""
    if len(kept) == 0:
        return student[kept].sum()
    return kd_loss(student[kept], teacher[kept], temperature=temperature)


def _rotated(rows: Tensor) -> Tensor:
    """The rows that are not upright: (4B, D) -> (3B, D), row 3 i + r - 1 of image i turned r times."""
    return rows.view(-1, ROTATIONS, rows.shape[1])[:, 1:].flatten(0, 1)


def _images(recognition: Tensor) -> Tensor:
    """The image of each rotated row of S (3B, B): 0, 0, 0, 1, 1, 1, ... (3B,)."""
    return torch.arange(recognition.shape[1], device=recognition.device).repeat_interleave(ROTATIONS - 1)


def _head(width: int) -> nn.Sequential:
    """The projection of features for the self-supervised task."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
