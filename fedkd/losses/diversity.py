"""The diversity loss of generators: other noise shall give other samples."""

from __future__ import annotations

from torch import Tensor

from fedkd.losses.precision import at_least_float32


def diversity_loss(noise: Tensor, samples: Tensor) -> Tensor:
    """1 where all samples are equal, less the more those differ whose noise does::

        exp(mean over all pairs i, j of   - mean (noise_i - noise_j)^2  *  mean |sample_i - sample_j|)

    Of FedGen and FedFTG, after Mao et al., CVPR 2019, arXiv 1903.05628.

    Args:
        noise: (B, Z), a constant here.
        samples: (B, ...), or features, made of it; the gradient reaches them.

    Returns:
        () float32 or better, in 0..1.

    Raises:
        ValueError: there are not as many rows of noise as of what was made.

    >>> import torch
    >>> noise = torch.tensor([[0.0], [2.0]])
    >>> diversity_loss(noise, torch.ones(2, 3)).item()
    1.0
    >>> round(diversity_loss(noise, torch.tensor([[0.0], [1.0]])).item(), 4)  # exp(-2), as half of the pairs are of one sample
    0.1353
    """
    if len(noise) != len(samples):
        raise ValueError(f"diversity_loss: {len(noise)} rows of noise, and {len(samples)} of what was made of them")
    noise, samples = at_least_float32(noise.detach()), at_least_float32(samples).flatten(1)
    apart = (samples[:, None] - samples[None]).abs().mean(2)  # (B, B)
    of_noise = (noise[:, None] - noise[None]).square().mean(2)  # (B, B)
    return (-of_noise * apart).mean().exp()
