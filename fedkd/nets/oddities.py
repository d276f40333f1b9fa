"""What a net may do that works, and not as its maker meant: state that is not saved, and probabilities in place of logits."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fedkd.nets.load import unsaved_buffers


def unsaved_state(net: nn.Module) -> dict[str, Tensor]:
    """Copies of the buffers, tensors and numbers that a net holds beside its state dict, by name.

    Not of a ``weight`` that is computed from parameters ``weight_...``, as normalisations of weights have it.
    """
    found = {name: buffer.clone() for name, buffer in unsaved_buffers(net).items()}
    for path, part in net.named_modules():
        for key, value in vars(part).items():
            name = f"{path}.{key}".removeprefix(".")
            if isinstance(value, Tensor) and not any(parameter.startswith(f"{key}_") for parameter in part._parameters):
                found[name] = value.detach().clone()
            elif isinstance(value, int | float) and not isinstance(value, bool):
                found[name] = torch.tensor(value)
    return found


def changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[str]:
    """The names in both whose values differ."""
    return [name for name in before if name in after and not torch.equal(before[name].nan_to_num(), after[name].nan_to_num())]


def are_probabilities(logits: Tensor) -> bool:
    """Whether rows (B, C) are distributions, which logits of fresh weights never are: the net ends with a softmax.

    >>> are_probabilities(torch.tensor([[0.25, 0.75]])), are_probabilities(torch.tensor([[0.25, -0.75]]))
    (True, False)
    """
    return bool((logits >= 0).all() and ((logits.sum(1) - 1).abs() < 1e-3).all())
