"""How far samples lie from those that a net was trained on, as far as its BatchNorm layers remember these."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self, final

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def norms_of(net: nn.Module) -> list[nn.Module]:
    """The BatchNorm layers of a net that keep running statistics."""
    return [part for part in net.modules() if isinstance(part, NORMS) and part.running_mean is not None]


@final
class StatisticsGap:
    """In the block, whatever goes through these nets is held against the running statistics of their BatchNorm layers::

        mean over nets of the sum over layers of   | mean of the inputs - running mean | + | variance - running variance |

    as in DeepInversion (Yin et al., CVPR 2020, arXiv 1912.08795); norms over channels, variances over the batch, biased.

    Args:
        nets: each with or without such layers; in eval mode, so that these stay as they are.

    >>> net = nn.Sequential(nn.BatchNorm1d(2)).eval()  # running mean 0, running variance 1
    >>> with StatisticsGap([net]) as gap:
    ...     _ = net(torch.tensor([[1.0, 4.0], [-1.0, 2.0]]))  # means 0 and 3, variances 1 and 1
    ...     gap.take()
    tensor(3.)
    """

    def __init__(self, nets: Iterable[nn.Module]) -> None:
        self._nets = list(nets)
        self._gaps: list[Tensor] = []
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        for layer in (layer for net in self._nets for layer in norms_of(net)):
            self._hooks.append(layer.register_forward_pre_hook(self._look))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._gaps.clear()

    def take(self) -> Tensor:
        """Of what went through since the last time, once through each net. () float32 or better; 0 where no net has a layer."""
        gaps, self._gaps = self._gaps, []
        if not gaps:
            return next((parameter.new_zeros(()) for net in self._nets for parameter in net.parameters()), torch.zeros(()))
        return torch.stack(gaps).sum() / len(self._nets)

    def _look(self, layer: Any, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].float() if inputs[0].dtype in (torch.bfloat16, torch.float16) else inputs[0]
        axes = [axis for axis in range(x.dim()) if axis != 1]
        variance, mean = torch.var_mean(x, axes, correction=0)
        self._gaps.append((mean - layer.running_mean).norm() + (variance - layer.running_var).norm())
