"""Mutual contrastive learning of peers: Yang et al. 2022, arXiv 2104.12565."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fedkd.base.errors import unknown
from fedkd.losses.distillation import kd_loss
from fedkd.losses.off_diagonal import off_diagonal
from fedkd.losses.precision import at_least_float32
from fedkd.losses.rows import unit_rows
from fedkd.losses.shapes import require_shape
from fedkd.losses.supervised_contrastive import contrast_by_label


def icl_loss(a: Tensor, b: Tensor, labels: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Interactive contrastive learning (ICL) of two peers: anchors of one, candidates of the other, in both directions.

    With rows of length 1, s_ij = a_i . b_j / temperature, and P(i) the other rows with i's label::

        loss = mean_i mean_{p in P(i)} -log softmax_{j != i}(s_ij)[p]  +  the same of s transposed

    A sample's own row of the other peer is neither positive nor negative, as in the authors' code, which sums the loss over all
    pairs of peers. Theirs is NaN for an anchor without a positive; here it is left out of the mean. The gradient reaches both
    embeddings. A peer that holds the other's as a constant still gets its own whole gradient, because both directions are here.

    Args:
        a: (B, D) one peer's embeddings, any float type and length; computed in float32 or better, outside autocast.
        b: (B, D) the other peer's of the same samples, in the same order.
        labels: (B,) class ids.
        temperature: > 0, divides cosine similarities; the default is the authors' for CIFAR (0.07 for ImageNet).

    Returns:
        () float32 or better, at least 0; symmetric in a and b.

    Raises:
        ValueError: the embeddings are not both (B, D), or there is not one label for each.

    >>> a, b = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.eye(2)[[0, 0, 1]]
    >>> round(icl_loss(a, b, torch.tensor([0, 0, 1]), temperature=1.0).item(), 4)  # 2 (log(e + 1) - 1)
    0.6265
    """
    require_shape("icl_loss: labels", labels, len(a))
    similarity = _cosines("icl_loss", a, b) / temperature  # (B, B)
    return contrast_by_label(similarity, labels) + contrast_by_label(similarity.T, labels)


def soft_icl_loss(
    a: Tensor, b: Tensor, *, temperature: float = 3.0, similarity_temperature: float = 0.1, preset: str = "official"
) -> Tensor:
    """Soft ICL: each direction of ICL imitates the other's distribution over the batch.

    With S = A B^T / similarity_temperature of rows of length 1, p(S) = softmax by row of S / T, and sg a constant::

        loss = T^2 mean_i KL(sg p(S^T)_i || p(S)_i)  +  T^2 mean_i KL(sg p(S)_i || p(S^T)_i)

    ``preset`` says whether a row's own column is a candidate: "official", as the authors' code computes, with it, or
    "without_self", as in ICL. The gradient reaches both embeddings, through the imitating distributions only.

    Args:
        a: (B, D) one peer's embeddings, any float type and length; computed in float32 or better, outside autocast.
        b: (B, D) the other peer's of the same samples, in the same order.
        temperature: T > 0.
        similarity_temperature: > 0, divides cosine similarities.
        preset: "official" or "without_self".

    Returns:
        () float32 or better, at least 0; 0 where S is symmetric, so for a = b.

    Raises:
        ValueError: the embeddings are not both (B, D).
        InputError: an unknown preset.

    >>> a, b = torch.eye(2), torch.eye(2)[[1, 1]]  # rows of S: (0, 0), (1, 1); of its transpose (0, 1) twice
    >>> loss = soft_icl_loss(a, b, temperature=1.0, similarity_temperature=1.0)
    >>> round(loss.item(), 4)  # both KL of (1/2, 1/2) and (1, e) / (1 + e) together: tanh(1/2) / 2
    0.2311
    """
    candidates = _candidates("soft_icl_loss", preset)
    similarity = _cosines("soft_icl_loss", a, b) / similarity_temperature  # (B, B)
    forth, back = candidates(similarity), candidates(similarity.T)
    return kd_loss(forth, back, temperature=temperature) + kd_loss(back, forth, temperature=temperature)


def soft_similarity_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 3.0,
    similarity_temperature: float = 0.1,
    preset: str = "official",
) -> Tensor:
    """Soft VCL: a sample is as similar to each of the batch in the student's space as it is in the teacher's.

    With S_s, S_t (B, B) the cosines within the student's and within the teacher's batch over similarity_temperature::

        loss = T^2 mean_i KL(softmax_j(S_t[i, j] / T) || softmax_j(S_s[i, j] / T))

    MCL sums it over all ordered pairs of peers. In the authors' code, and here by default, j = i is a candidate too, with a
    cosine of 1 on both sides. With ``preset="without_self"`` it is none, as in ICL. The gradient reaches the student only.

    Args:
        student: (B, D) embeddings, any float type and length; computed in float32 or better, outside autocast.
        teacher: (B, E) of the same samples, in the same order; the width may be another. A constant here.
        temperature: T > 0.
        similarity_temperature: > 0, divides cosine similarities.
        preset: "official" or "without_self".

    Returns:
        () float32 or better, at least 0; 0 for a batch of one, and without self of two, where nothing is to be compared.

    Raises:
        ValueError: student and teacher are not one row for each sample.
        InputError: an unknown preset.

    >>> student, teacher = torch.eye(2)[[0, 0, 0]], torch.eye(2)[[0, 0, 1]]
    >>> loss = soft_similarity_loss(student, teacher, temperature=1.0, similarity_temperature=1.0, preset="without_self")
    >>> round(loss.item(), 4)  # two rows of three are even and taught (e, 1) / (e + 1): 2/3 (log 2 - 0.5822)
    0.074
    """
    candidates = _candidates("soft_similarity_loss", preset)
    require_shape("soft_similarity_loss: teacher", teacher, len(student), "D")
    own = _cosines("soft_similarity_loss", student, student) / similarity_temperature
    target = _cosines("soft_similarity_loss", teacher, teacher) / similarity_temperature
    return kd_loss(candidates(own), candidates(target), temperature=temperature)


def _cosines(name: str, a: Tensor, b: Tensor) -> Tensor:
    """The cosine of every row of a with every row of b, (B, D) and (B, D) -> (B, B)."""
    require_shape(f"{name}: embeddings", a, "B", "D")
    require_shape(f"{name}: embeddings", b, *a.shape)
    with torch.autocast(a.device.type, enabled=False):
        return unit_rows(at_least_float32(a)) @ unit_rows(at_least_float32(b)).T


def _candidates(name: str, preset: str) -> Callable[[Tensor], Tensor]:
    """What of a similarity matrix (B, B) takes part."""
    if preset not in PRESETS:
        raise unknown(f"{name}: preset", preset, PRESETS)
    return PRESETS[preset]


def _all(similarity: Tensor) -> Tensor:
    """Every column, the row's own too."""
    return similarity


PRESETS: dict[str, Callable[[Tensor], Tensor]] = {"official": _all, "without_self": off_diagonal}
