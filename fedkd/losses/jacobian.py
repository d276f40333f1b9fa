"""Jacobian matching: Srinivas and Fleuret 2018, arXiv 1803.00443; akin to Czarnecki et al. 2017, arXiv 1706.04859."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.losses.precision import at_least_float32
from fedkd.losses.rows import unit_rows
from fedkd.losses.shapes import require_shape


def jacobian_loss(student: Tensor, teacher: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """How differently the two nets would answer to a change of each pixel, by the label's logit alone::

        mean_b,pixel (J_s - J_t)^2,   J_b = d z_{b, y_b} / d image_b, flattened and divided by its 2-norm

    ``backward`` differentiates the student's J once more: all its layers must have second derivatives, which torch's own have.
    The gradient reaches the student's parameters and, to be ignored, the images; the teacher's parameters get none, and a J of
    zeros gives none. Both nets must treat samples apart: a BatchNorm in train mode mixes them.

    Args:
        student: (B, C) logits that were computed from ``images``, any float type; J is computed in the net's own type, outside
            autocast, and compared in float32 or better.
        teacher: (B, C) logits that were computed from ``images``, with a graph; its J is a constant here.
        images: (B, ...) real numbers, such as (B, c, h, w), that required a gradient when the logits were computed.
        labels: (B,) int64 class ids in 0 .. C - 1.

    Returns:
        () float32 or better, between 0 and 4 / (numbers of an image).

    Raises:
        ValueError: a shape differs, or logits do not depend on images that require a gradient.
        RuntimeError: a label is not a class id.

    >>> images = torch.zeros(1, 1, 1, 2).requires_grad_()
    >>> weights = torch.tensor([[3.0, 0.0], [4.0, 1.0]]).requires_grad_()  # a column for each class
    >>> student, teacher = images.flatten(1) @ weights, images.flatten(1) @ torch.eye(2)
    >>> loss = jacobian_loss(student, teacher, images, torch.tensor([0]))
    >>> round(loss.item(), 4)  # (3, 4) / 5 and (1, 0): (0.16 + 0.64) / 2
    0.4
    """
    require_shape("jacobian_loss: teacher", teacher, *student.shape)
    require_shape("jacobian_loss: images", images, len(student), *images.shape[1:])
    require_shape("jacobian_loss: labels", labels, len(student))
    with torch.autocast(images.device.type, enabled=False):  # a gradient that is differentiated again is computed by it
        target = _jacobian("teacher", teacher, images, labels, create_graph=False)
        return F.mse_loss(_jacobian("student", student, images, labels, create_graph=True), target)


def _jacobian(name: str, logits: Tensor, images: Tensor, labels: Tensor, *, create_graph: bool) -> Tensor:
    """Of each sample's own logit by its own image, rows of length 1: -> (B, numbers of an image)."""
    if not (images.requires_grad and logits.requires_grad):
        raise ValueError(f"jacobian_loss: compute the {name}'s logits from images after images.requires_grad_()")
    chosen = logits.gather(1, labels[:, None]).sum()  # samples are apart: the sum's gradient is each one's own
    (gradient,) = torch.autograd.grad(chosen, images, retain_graph=True, create_graph=create_graph, allow_unused=True)
    if gradient is None:
        raise ValueError(f"jacobian_loss: the {name}'s logits do not depend on these images")
    return unit_rows(at_least_float32(gradient).flatten(1))
