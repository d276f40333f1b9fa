"""Label-masking distillation of FedLMD: only classes that a client has few of are taught. Lu et al. 2023, arXiv 2409.13136."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.losses.not_true import without_true
from fedkd.losses.precision import at_least_float32


def majority_labels(counts: Tensor) -> Tensor:
    """Which classes have more samples than the mean over all classes, those without a sample too: (C,) -> (C,) bool.

    >>> majority_labels(torch.tensor([6, 3, 0, 3])).tolist()  # a mean of 3
    [True, False, False, False]
    """
    return counts * len(counts) > counts.sum()


def label_masking_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, majority: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """The distillation loss over the C - 1 classes that are not the label, of a teacher who has none of the majority::

        T^2 * mean_b KL(softmax(teacher without y and majority / T) || softmax(student without y / T))

    The student keeps the majority's classes: what it gives to those of them that are not the label is pushed to the others.
    Without a majority it is ``not_true_loss``. A teacher whose logits are all alike, such as zeros, teaches each class that
    is left as much as another. Classes are taken out, not masked by a large number. A sample that leaves the teacher no
    class adds nothing but counts in the mean. The gradient reaches all of the student's logits but that of the label.

    Args:
        student: (B, C) logits, any float type; computed in float32 or better, in log space.
        teacher: (B, C) logits, the same samples in the same order; a constant here.
        labels: (B,) int64 class ids in 0 .. C - 1.
        majority: (C,) bool, the classes of which the teacher says nothing.
        temperature: T > 0.

    Returns:
        () float32 or better, at least 0.

    Raises:
        ValueError: the logits differ in shape, or the majority is not of C classes.
        RuntimeError: a label is not a class id.

    >>> student, teacher = torch.zeros(1, 4), torch.tensor([[9.0, 5.0, 0.0, 3.0]]).log1p()
    >>> majority = torch.tensor([True, True, False, False])
    >>> loss = label_masking_loss(student, teacher, torch.tensor([0]), majority)
    >>> round(loss.item(), 4)  # thirds, taught (0, 1/5, 4/5): 1/5 log(3/5) + 4/5 log(12/5)
    0.5982
    """
    if student.shape != teacher.shape:
        shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        raise ValueError(f"label_masking_loss: the shapes of student and teacher logits differ, {shapes}")
    if majority.shape != student.shape[1:]:
        shapes = f"{tuple(majority.shape)}, and logits {tuple(student.shape)}"
        raise ValueError(f"label_masking_loss: the majority is (C,), not {shapes}")
    left = without_true(~majority.expand_as(student), labels)  # (B, C - 1)
    taught = left.any(1, keepdim=True)  # (B, 1)
    log_student = F.log_softmax(at_least_float32(without_true(student, labels)) / temperature, dim=1)  # (B, C - 1)
    said = at_least_float32(without_true(teacher.detach(), labels)) / temperature  # (B, C - 1)
    target = said.masked_fill(~left & taught, -torch.inf).softmax(1)  # (B, C - 1)
    divergences = F.kl_div(log_student, target, reduction="none") * taught  # (B, C - 1)
    return divergences.sum(1).mean() * temperature**2
