"""A net with branches on a shared trunk: made at a node, trained by a client, averaged by the server like any other net."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor, nn

from fedkd.base.errors import under
from fedkd.base.inputs import Inputs, each, rows
from fedkd.data.kinds import NO_MOMENTS
from fedkd.engine.strategy import Strategy
from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.node import Node
from fedkd.experiment.algorithm.settings import Settings
from fedkd.experiment.algorithm.train import Loss, fit
from fedkd.knowledge.knowledge import Knowledge
from fedkd.losses import cross_entropy_loss, kd_loss
from fedkd.nets import Branched, check_branches, load

M = TypeVar("M", bound=nn.Module)


def check(strategy: Strategy, experiment: Settings) -> None:
    """Raise InputError if the experiment does not give what is needed, or names a net that cannot be cut.

    Of a user's net, that shows when it is built: before the first round.
    """
    strategy.needs.check(type(strategy).__name__, experiment)
    for name in experiment.architectures:
        with under("nets"):
            check_branches(name, experiment.net_options.get(name, {}))


def branched(node: Node, branches: int, *, split_scale: float = 1.0) -> Branched:
    """So many branches on one trunk, of the node's own architecture, with fresh weights each."""
    return Branched([node.fresh_net() for _ in range(branches)], split_scale=split_scale)


def example_input(node: Node) -> Inputs:
    """A sample (1, ...) of the data, which tells the shapes of maps and features."""
    source = node.federation.source
    one = source.kind.normalise(rows(source.train_inputs, slice(0, 1)), NO_MOMENTS)
    return each(lambda tensor: tensor.to(node.device), one)


def initial(node: Node, build: Callable[[], M]) -> Knowledge:
    """The weights and buffers, equal at all nodes, that training starts from."""
    return Knowledge.of("weights", node.module("branches", build).state_dict())


def received(node: Node, broadcast: Knowledge, build: Callable[[], M]) -> M:
    """The module with what was broadcast."""
    module = node.module("branches", build)
    load(module, broadcast.tensors)
    return module


def train(
    client: Client, module: nn.Module, loss: Loss, weight: float, *, after_step: Callable[[], None] | None = None
) -> Knowledge:
    """Local epochs on the labelled samples, one optimiser for all; what is uploaded.

    The optimiser's state stays in the client's memory: rounds of a single client are one uninterrupted training.

    Args:
        client: who trains.
        module: all that is trained, and all that travels.
        loss: ``loss(module, batch)``, as for ``fit``.
        weight: of the distillation in this round, reported as ``distillation_weight``.
        after_step: as for ``fit``.
    """
    data = client.train.labelled()
    losses = fit(module, data, loss, optimizer=client.optimizer("main", module), after_step=after_step)
    metrics = {**losses, "distillation_weight": weight}
    return Knowledge.of("weights", module.state_dict(), weight=len(data), metrics=metrics)


def summed_cross_entropy(
    logits: Tensor, labels: Tensor, loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy_loss
) -> Tensor:
    """The sum over branches of their mean cross-entropies; gradient through the logits.

    Args:
        logits: (m, B, C).
        labels: (B,) int64.
        loss: the mean cross-entropy of logits (B, C) and labels (B,).

    Returns:
        () float32 or better.

    >>> import torch
    >>> round(summed_cross_entropy(torch.zeros(3, 2, 10), torch.tensor([3, 7])).item(), 4)  # 3 log 10
    6.9078
    """
    return len(logits) * loss(logits.flatten(0, 1), labels.repeat(len(logits)))


def summed_distillation(logits: Tensor, targets: Tensor, *, temperature: float) -> Tensor:
    """The sum over branches of ``T^2 mean_b KL(softmax(target / T) || softmax(branch / T))``; targets are constants.

    Args:
        logits: (m, B, C).
        targets: (m, B, C) logits, each branch's own, or (B, C), the same for all.
        temperature: T > 0.

    Returns:
        () float32 or better, at least 0.

    >>> import torch
    >>> branches, target = torch.zeros(3, 1, 2), torch.tensor([[0.0, 3.0]]).log1p()  # (1/2, 1/2) three times, (1/5, 4/5)
    >>> round(summed_distillation(branches, target, temperature=1.0).item(), 4)  # 3 (1/5 log(2/5) + 4/5 log(8/5))
    0.5782
    """
    everyone = targets.expand_as(logits).flatten(0, 1)  # (m B, C)
    return len(logits) * kd_loss(logits.flatten(0, 1), everyone, temperature=temperature)


def summed_soft_cross_entropy(logits: Tensor, targets: Tensor, *, temperature: float) -> Tensor:
    """The sum over branches of ``-mean_b sum_c softmax(target / T) log softmax(branch / T)``: no T^2; targets are constants.

    Args:
        logits: (m, B, C).
        targets: (m, B, C) logits, each branch's own, or (B, C), the same for all.
        temperature: T > 0.

    Returns:
        () float32 or better.

    >>> import torch
    >>> round(summed_soft_cross_entropy(torch.zeros(3, 1, 2), torch.zeros(1, 2), temperature=2.0).item(), 4)  # 3 log 2
    2.0794
    """
    everyone = targets.expand_as(logits).flatten(0, 1)  # (m B, C)
    return len(logits) * kd_loss(logits.flatten(0, 1), everyone, temperature=temperature, preset="textbrewer")
