"""Target nets: a moving average's projection of one view is predicted from the other view; there is no contrast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.fields import Share
from fedkd.losses import byol_loss
from fedkd.methods.contrastive.base import Base, Views
from fedkd.methods.contrastive.finite import is_finite
from fedkd.nets import Net, load, move_towards

TARGET_HEADS = ("projection",)
#: Where a client's memory holds the round it last trained in. Without it the client is as one that never took part.
TRAINED = "target_trained_in"


def standardised(rows: Tensor) -> Tensor:
    """Columns of mean 0 and variance 1, as a last BatchNorm without parameters gives: (N, D) -> (N, D) float32, N >= 2.

    >>> standardised(torch.tensor([[1.0, 7.0], [3.0, 7.0]])).round(decimals=4)
    tensor([[-1.,  0.],
            [ 1.,  0.]])
    """
    return F.batch_norm(rows.float(), None, None, training=True)


@dataclass(frozen=True, eq=False)
class TargetState:
    """What one local training has beside the online net, which is the net that travels."""

    target: Net


S = TypeVar("S", bound=TargetState)


@dataclass(frozen=True)
class TargetNet(Base[S]):
    """An online net predicts what a target net projects of the other view; the target is its moving average.

    The loss, with online projections z, the predictor q and target projections xi, and no gradient through xi::

        [2 - 2 cos(q(z1), xi(x2))] + [2 - 2 cos(q(z2), xi(x1))]

    After each step ``target <- momentum target + (1 - momentum) online``, parameters only. The target starts as a copy of the
    online net that the client first receives, and stays with the client over the rounds. It is run in train mode and has
    BatchNorm statistics of its own. Subclasses decide what a client takes of the global weights, in ``receive``.
    A training that ends in weights that are not finite is forgotten: the client then starts anew from what it receives.

    Deviations from BYOL: z and xi are standardised over the batch here, for the projection head has no BatchNorm, BYOL's has
    one in its middle, and without any all samples soon project alike, which loses nothing here and teaches nothing. Both views
    go through a net together, so a BatchNorm sees them as one batch.
    """

    heads: ClassVar[tuple[str, ...]] = ("projection", "target_prediction")

    momentum: Share = 0.99  # of the target net; 0.99 in EasyFL's code, 0.996 growing to 1 in BYOL's paper

    def target(self, client: Client, net: Net) -> Net:
        """The client's target net, a copy of the online net where it has none yet."""
        target = client.net("target", heads=TARGET_HEADS, keep=True).requires_grad_(False)
        if TRAINED not in client.memory:
            online = net.state_dict()
            load(target, {name: online[name] for name in target.state_dict()})
        return target.train()

    def loss(self, state: S, net: Net, views: Views) -> Mapping[str, Tensor]:
        """Both directions, summed. Gradient: through the predictions only."""
        with torch.no_grad():
            targets = standardised(state.target.head("projection", state.target.features(views.inputs)))  # (2B, 256)
        predictions = net.head("target_prediction", standardised(views.projected))  # (2B, 256)
        (q1, q2), (xi1, xi2) = predictions.chunk(2), targets.chunk(2)
        return {"local_contrastive": byol_loss(q1, xi2) + byol_loss(q2, xi1)}

    def after_step(self, state: S, net: Net) -> None:
        """The target follows."""
        move_towards(state.target.encoder, net.encoder, 1 - self.momentum)
        move_towards(state.target.heads["projection"], net.heads["projection"], 1 - self.momentum)

    def finish(self, state: S, client: Client, net: Net) -> None:
        """That this client has trained, and in which round."""
        if is_finite(net):
            client.memory[TRAINED] = client.round
        else:
            client.memory.pop(TRAINED, None)
