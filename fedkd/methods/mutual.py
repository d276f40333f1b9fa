"""Two nets of one client that teach each other: one is its own, the other is shared with everybody and passes through."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.node import Node
from fedkd.experiment.algorithm.optimizer_state import trainable
from fedkd.experiment.algorithm.train import Loss, Split, fit
from fedkd.nets import Net, load


def shared_net(node: Node, weights: Mapping[str, Tensor] | None = None, *, keep: bool = False) -> Net:
    """The net that all nodes have in common: ``shared_net`` of the experiment, by default the server's.

    Args:
        node: where it is needed.
        weights: what to overwrite it with, e.g. a broadcast's tensors; default, its initial or kept weights.
        keep: whether it goes to the node's memory, as at the server.
    """
    experiment = node.experiment
    architecture = experiment.shared_net or experiment.server_net or experiment.architectures[0]
    net = node.net("shared", architecture=architecture, keep=keep)
    if weights is not None:
        load(net, weights)
    return net


def fit_together(
    client: Client, nets: Mapping[str, nn.Module], data: Split, loss: Loss, *, passing: str = ""
) -> dict[str, float]:
    """Train several nets with one backward pass a step, and one optimiser over all of them.

    The optimisers of [train] treat every parameter by itself, so that one over all nets does what one for each would. Its
    state is kept in the client's memory but for a net that is only passing through: that one starts anew each round.

    Args:
        client: whose nets they are.
        nets: by the names that ``loss`` uses.
        data: the client's samples.
        loss: ``loss(nets, batch)``, as for ``fit``.
        passing: the name of the net whose state does not stay; by default all do.

    Returns:
        the mean of each part, and of their sum as ``loss``.
    """
    staying = nn.ModuleDict({name: net for name, net in nets.items() if name != passing})
    optimizer = client.optimizer("staying", staying)
    gone = trainable(nets[passing], client.work().where) if passing else []
    if gone:
        optimizer.add_param_group({"params": gone})  # of its own: fused steps want equally old state
    losses = fit(nn.ModuleDict(nets), data, loss, optimizer=optimizer)
    for parameter in gone:
        optimizer.state.pop(parameter, None)
    return losses
