"""The diversity loss of generators: other noise shall give other samples."""

from __future__ import annotations

import torch
from torch import Tensor

from fedkd.losses.precision import at_least_float32


def diversity_loss(noise: Tensor, samples: Tensor) -> Tensor:
    """1 where all samples are equal, less the more those differ whose noise does::

        exp(mean over all pairs i, j of   - mean (noise_i - noise_j)^2  *  mean |sample_i - sample_j|)

    Of FedGen and FedFTG, after Mao et al., CVPR 2019, arXiv 1903.05628.

    Args:
        noise: (B, Z).
        samples: (B, ...), made of it.

    Returns:
        () float32 or better, in 0..1.

    >>> noise = torch.tensor([[0.0], [2.0]])
    >>> diversity_loss(noise, torch.ones(2, 3)).item()
    1.0
    >>> round(diversity_loss(noise, torch.tensor([[0.0], [1.0]])).item(), 4)  # exp(-2), as half of the pairs are of one sample
    0.1353
    """
    noise, samples = at_least_float32(noise), at_least_float32(samples).flatten(1)
    apart = torch.cdist(samples, samples, p=1.0) / samples.shape[1]  # (B, B)
    of_noise = (noise[:, None] - noise[None]).square().mean(2)  # (B, B)
    return (-of_noise * apart).mean().exp()
"""The term that keeps a generator from making one thing only. Zhu et al. 2021, arXiv 2105.10056, as their code has it."""

from __future__ import annotations

from torch import Tensor

from fedkd.losses.precision import at_least_float32


def diversity_loss(noise: Tensor, embeddings: Tensor) -> Tensor:
    """Small where what is made of different noise differs: over all pairs of samples, each with itself too::

        exp(-mean_ij (mean_d (noise_i - noise_j)^2 * mean_d |made_i - made_j|))

    Args:
        noise: (B, E), any float type; a constant here.
        embeddings: (B, D), what was made of it, flat; the gradient reaches it.

    Returns:
        () float32 or better, above 0 and at most 1, which it is where all rows are equal.

    Raises:
        ValueError: there are not as many rows of noise as of what was made.

    >>> import torch
    >>> noise, made = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0, 0.0], [1.0, 3.0]])
    >>> round(diversity_loss(noise, made).item(), 4)  # exp(-(0 + 2 + 2 + 0) / 4)
    0.3679
    """
    if len(noise) != len(embeddings):
        raise ValueError(f"diversity_loss: {len(noise)} rows of noise, and {len(embeddings)} of what was made of them")
    noise, embeddings = at_least_float32(noise.detach()), at_least_float32(embeddings)
    apart = (noise[:, None] - noise).square().mean(2)  # (B, B)
    return (-(apart * (embeddings[:, None] - embeddings).abs().mean(2)).mean()).exp()
