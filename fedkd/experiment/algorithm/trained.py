"""What a training ends in: the means of its losses, and weights that are numbers still."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fedkd.base.errors import TrainingError
from fedkd.knowledge.knowledge import MAX_MAGNITUDE


def mean_losses(names: list[str], logged: Tensor, sizes: list[int], where: str, epochs: float) -> dict[str, float]:
    """The means over samples of what each step logged. One look at the device for the whole fit, not one a step.

    Args:
        names: of the parts.
        logged: (steps, parts).
        sizes: how many samples each step saw.
        where: who trained, for the message.
        epochs: how many these steps were, for the message.

    Raises:
        TrainingError: naming epoch and batch of the first loss that is not finite.
    """
    logged = logged.cpu().double()  # (steps, parts)
    seen = sum(sizes)
    weights = torch.tensor([size / seen for size in sizes], dtype=torch.float64)
    means: list[float] = (weights @ logged).tolist()
    if not all(map(math.isfinite, means)):  # as soon as one step's is not
        finite = logged.isfinite().all(dim=1)
        step, steps = int(finite.int().argmin()), math.ceil(len(sizes) / epochs)
        values = ", ".join(f"{name} {value:g}" for name, value in zip(names, logged[step].tolist(), strict=True))
        raise TrainingError(
            f"{where}, epoch {step // steps + 1}, batch {step % steps + 1}: the loss is not finite ({values}); "
            "lower train.lr or set train.clip"
        )
    return dict(zip(names, means, strict=True))


@torch.no_grad()
def check_weights(net: nn.Module, where: str) -> None:
    """Raise TrainingError if a trained weight is not finite or huge: no loss would show it after the last step."""
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad and parameter.numel()]
    if not trained or _have_small_norms(trained):
        return
    extremes = [extreme.float() for parameter in trained for extreme in parameter.aminmax()]
    largest = float(torch.stack(extremes).abs().amax())
    if not largest <= MAX_MAGNITUDE:
        raise TrainingError(f"{where}: its last step left a weight of {largest:g}; lower train.lr or set train.clip")


def _have_small_norms(tensors: Sequence[Tensor]) -> bool:
    """Whether no number can be huge, as a norm is at least as large as each; half of the bound, as norms are rounded."""
    norms: list[float] = torch.stack(torch._foreach_norm(list(tensors))).tolist()
    return all(norm <= MAX_MAGNITUDE / 2 for norm in norms)
