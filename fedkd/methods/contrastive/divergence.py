"""Clients that keep their online net, and weigh it against the global one by how far training moves it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from fedkd.experiment.algorithm.client import Client
from fedkd.methods.contrastive.target_net import TRAINED, TargetNet, TargetState
from fedkd.nets import Net, load

#: Where a client's memory holds how far its last training moved the online encoder.
DIVERGENCE = "divergence"


def kernels(encoder: nn.Module) -> dict[str, Tensor]:
    """The weights of convolutions, by name; of an encoder without any, all its weight matrices.

    >>> sorted(kernels(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))))
    ['0.weight']
    >>> sorted(kernels(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))))
    ['0.weight', '2.weight']
    """
    convolutions = [name for name, module in encoder.named_modules() if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    weights = {name: parameter.detach() for name, parameter in encoder.named_parameters()}
    kernels = {name: weight for name, weight in weights.items() if name.removesuffix(".weight") in convolutions}
    return kernels or {name: weight for name, weight in weights.items() if weight.ndim == 2}


def weight_divergence(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    """The mean over tensors of ``|after - before|``, each the root of a sum of squares; 0 where there are no tensors.

    >>> before = {"a": torch.zeros(2), "b": torch.ones(3)}
    >>> weight_divergence(before, {"a": torch.tensor([3.0, 4.0]), "b": torch.ones(3)})  # (5 + 0) / 2
    2.5
    """
    distances = [torch.linalg.vector_norm(after[name].float() - tensor.float()) for name, tensor in before.items()]
    return torch.stack(distances).mean().item() if distances else 0.0


@final
@dataclass(frozen=True, eq=False)
class DivergenceState(TargetState):
    """One local training, and the kernels of the online encoder before it."""

    before: Mapping[str, Tensor]


@dataclass(frozen=True)
class DivergenceAware(TargetNet[DivergenceState]):
    """A client that was here before makes something of its own online net and the global one; a new one takes the global one.

    The divergence is EasyFL's: the mean over the kernels of the online encoder of the L2 distance that the client's last
    training moved each. Deviations from it: all convolutions count, those of shortcuts too; an encoder without any is
    compared by its weight matrices. In EasyFL's code a client's target is its online net itself during its first training,
    by a shared reference; here it is a copy from the start.
    """

    keeps_net: ClassVar[bool] = True

    def receive(self, client: Client, net: Net, weights: Mapping[str, Tensor]) -> None:
        """Overwrite the net of a client that never trained; else ``merge``."""
        if TRAINED in client.memory:
            self.merge(client, net, weights)
        else:
            load(net, weights)

    @abstractmethod
    def merge(self, client: Client, net: Net, weights: Mapping[str, Tensor]) -> None:
        """Make the net, which is as the client's last training left it, of itself and the global weights."""

    def start(self, client: Client, net: Net) -> DivergenceState:
        """The target net, and the kernels before the first step."""
        before = {name: kernel.clone() for name, kernel in kernels(net.encoder).items()}
        return DivergenceState(self.target(client, net), before)

    def finish(self, state: DivergenceState, client: Client, net: Net) -> None:
        """Also how far the training moved the encoder."""
        super().finish(state, client, net)
        client.memory[DIVERGENCE] = weight_divergence(state.before, kernels(net.encoder))
