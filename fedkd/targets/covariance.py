"""KDCL-General: the mixture of least expected error, by the covariance of errors. Guo et al. 2020 (CVPR), section 3.2."""

from __future__ import annotations

import torch
from torch import Tensor

from fedkd.targets.means import weighted
from fedkd.targets.target import Target
from fedkd.targets.teachers import label_columns, teacher_probabilities


def covariance_weights(logits: Tensor, labels: Tensor, *, ridge: float = 1e-6) -> Tensor:
    """Shares for which the mixture's expected squared error is least, from held-out samples::

        E_ij = mean_b (p_i - onehot(y)) . (p_j - onehot(y)),   p_k = softmax(z_k)      at temperature 1
        w    = E^-1 1 / (1^T E^-1 1)

    as for an ensemble of regressors (Perrone and Cooper 1993). Ours: ``ridge`` times the mean of E's diagonal is added to it,
    since two equal teachers make E singular, and shares below 0 are cut off, the others renormalised: a mixture with
    negative shares need not be a distribution.

    Args:
        logits: (K, V, C) of K >= 1 teachers on V >= 1 held-out samples, any float type; constants; computed in float64.
        labels: (V,) integers below C.
        ridge: > 0.

    Returns:
        (K,) numbers >= 0 that sum to one, float32 or better.

    Raises:
        ValueError: logits of another number of dimensions, of no teacher or no sample; labels that are not one class a
            sample.

    >>> three = torch.tensor(3.0).log()
    >>> logits = torch.tensor([[[0.0, 0.0], [0.0, 99.0]], [[99.0, 0.0], [0.0, three]]])  # p[y] 1/2, 1 and 1, 3/4
    >>> covariance_weights(logits, torch.tensor([0, 1]))  # E is diagonal, 1/4 and 1/16
    tensor([0.2000, 0.8000])
    """
    columns = label_columns("covariance", logits, labels)  # (K, V, 1)
    if not len(labels):
        raise ValueError("covariance: there are no held-out samples")
    probabilities = teacher_probabilities("covariance", logits, 1.0)  # (K, V, C)
    with torch.autocast(logits.device.type, enabled=False):
        errors = probabilities.double() - torch.zeros_like(probabilities).double().scatter(-1, columns, 1.0)
        products = errors.flatten(1) @ errors.flatten(1).T / len(labels)  # (K, K)
        scale = products.diagonal().mean()
        if not scale > 0:  # nobody errs
            return torch.full_like(probabilities[:, 0, 0], 1 / len(logits))
        identity = torch.eye(len(logits), dtype=errors.dtype, device=errors.device)
        raw = torch.linalg.solve(products / scale + ridge * identity, identity.sum(0)).clamp_min(0)  # (K,)
        weights: Tensor = (raw / raw.sum()).to(probabilities.dtype)
    return weights


def covariance(
    logits: Tensor,
    validation_logits: Tensor,
    validation_labels: Tensor,
    *,
    ridge: float = 1e-6,
    temperature: float = 1.0,
) -> Target:
    """The mixture of the teachers' probabilities at T in the shares of ``covariance_weights``::

        p = sum_k w_k softmax(z_k / T)

    Only the labels of held-out samples are used: nothing leaks about these. But what is held out must be neither trained nor
    tested on; on training samples the teachers hardly err, and the shares are noise.

    Args:
        logits: (K, B, C) of K >= 1 teachers, any float type; constants.
        validation_logits: (K, V, C) of the same teachers on V held-out samples; constants.
        validation_labels: (V,) integers below C.
        ridge: > 0, as in ``covariance_weights``.
        temperature: T > 0 of the mixture; the weights are at temperature 1.

    Returns:
        probabilities (B, C) at that temperature, float32 or better.

    Raises:
        ValueError: logits of another number of dimensions, of no teacher or no held-out sample; other teachers' validation
            logits; labels that are not one class a sample; a temperature that is not positive.

    >>> held_out = torch.tensor([[[9.0, 0.0], [0.0, 9.0]], [[9.0, 0.0], [9.0, 0.0]]]).log1p()  # the second is wrong once
    >>> logits = torch.tensor([[[0.0, 3.0]], [[3.0, 0.0]]]).log1p()
    >>> covariance(logits, held_out, torch.tensor([0, 1])).probabilities()  # the first's alone
    tensor([[0.2000, 0.8000]])
    """
    if len(validation_logits) != len(logits):
        raise ValueError(f"covariance: {len(logits)} teachers, and validation logits of {len(validation_logits)}")
    weights = covariance_weights(validation_logits, validation_labels, ridge=ridge)
    return weighted(logits, weights, temperature=temperature)
