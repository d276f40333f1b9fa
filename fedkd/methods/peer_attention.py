"""Attention between peers, and what they tell each other for it. Chen et al. 2020, arXiv 1912.00350, OKDDip.

``attention_losses`` is a function of all peers' tensors. Trained in one process, they are all live. Exchanged, each peer
computes all P losses with its own tensors live and what it heard constant, which gives its net the same gradient, as this needs
no more than the losses' derivative in its own tensors. The attention's maps W stand in all of them:

- "shared", one W: features travel, so that each replica projects all of them and has the whole gradient of W, which no peer
  has from queries and keys, where it sees its own part only. Replicas start equal and stay equal, bit for bit on one machine,
  whatever codecs lose, while no peer misses a round and train.clip is 0 (it scales by a norm that each peer has its own of).
- "own", one W a peer: queries and keys travel, and a peer's part is all of its W's gradient. That is joint training of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor, nn

from fedkd.base.errors import InputError
from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.node import Node
from fedkd.experiment.algorithm.server import Server
from fedkd.experiment.algorithm.train import Batch
from fedkd.experiment.experiment import Experiment
from fedkd.methods.lockstep import Heard, Said
from fedkd.methods.peer_heads import feature_width
from fedkd.nets import Net
from fedkd.targets import attention

FormName = Literal["auto", "shared", "own"]


@final
class Attention(nn.Module):
    """Two linear maps without bias, of features to queries and to keys.

    Args:
        features: D.
        width: d, of queries and keys.

    >>> queries, keys = Attention(64, 8)(torch.zeros(3, 5, 64))
    >>> queries.shape, keys.shape
    (torch.Size([3, 5, 8]), torch.Size([3, 5, 8]))
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(features, width, bias=False)
        self.key = nn.Linear(features, width, bias=False)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys, (..., d) each, of features (..., D)."""
        return self.query(features), self.key(features)


def attention_losses(logits: Tensor, queries: Tensor, keys: Tensor, *, temperature: float) -> Tensor:
    """For each peer the distance of what it predicts to what the peers that it attends to predict together::

        T^2 mean_b KL(softmax(t_a / T) || softmax(z_a / T)),   t_a = sum_b A_ab z_b,   A_ab = softmax_b(q_a . k_b)

    The z_b in a target are constants, A is not: the gradient reaches every z_a as the student, and all queries and keys through
    the targets. Of live tensors of all peers this is joint training. Where all but one's are constants, that one's gradient of
    the sum is still the joint one. A target moves towards the peer's own prediction too: A = 1 would leave nothing to learn.

    Args:
        logits: (P, B, C), any float type; computed in float32 or better, outside autocast.
        queries: (P, B, d).
        keys: (P, B, d).
        temperature: T > 0.

    Returns:
        (P,) float32 or better, at least 0; 0 for a single peer, which attends to itself.

    Raises:
        ValueError: as ``fedkd.targets.attention``.

    >>> logits = torch.tensor([[[0.0, 0.0]], [[0.0, 6.0]]]).log1p()  # queries of 0 attend to both alike: target log(7) / 2
    >>> losses = attention_losses(logits, torch.zeros(2, 1, 1), torch.ones(2, 1, 1), temperature=1.0)
    >>> [round(loss, 4) for loss in losses.tolist()]  # of targets (p, 1 - p), p = 1 / (1 + sqrt 7)
    [0.1057, 0.0798]
    """
    targets = attention(logits, queries, keys).logits()  # (P, B, C)
    with torch.autocast(logits.device.type, enabled=False):
        log_targets = (targets / temperature).log_softmax(-1)
        log_students = (logits.to(targets.dtype) / temperature).log_softmax(-1)
        divergences = (log_targets.exp() * (log_targets - log_students)).sum(-1)  # (P, B)
        return divergences.mean(1) * temperature**2


@final
@dataclass(frozen=True)
class Form:
    """What peers tell each other for their attention, whose maps it has, and where all queries and keys come from."""

    init: Literal["own", "shared"]
    shapes: Callable[[int, int], dict[str, tuple[int, ...]]]  # of D and d: without (B, ...)
    say: Callable[[Attention, Tensor], Said]  # of features (B, D)
    projections: Callable[[Attention, Said, Heard], tuple[Tensor, Tensor]]  # queries and keys, (P, B, d) each


def _all_from_features(maps: Attention, said: Said, heard: Heard) -> tuple[Tensor, Tensor]:
    queries, keys = maps(heard.with_mine("features", said["features"]))  # (P, B, D) -> (P, B, d) each
    return queries, keys


def _all_as_said(maps: Attention, said: Said, heard: Heard) -> tuple[Tensor, Tensor]:
    return heard.with_mine("queries", said["queries"]), heard.with_mine("keys", said["keys"])


#: "shared": one pair of maps, with a replica at each peer, which sees all features and so has its whole gradient.
#: "own": each peer has a pair of its own, for features of its own width.
FORMS: Mapping[str, Form] = {
    "shared": Form(
        init="shared",
        shapes=lambda features, width: {"features": (features,)},
        say=lambda maps, features: {"features": features},
        projections=_all_from_features,
    ),
    "own": Form(
        init="own",
        shapes=lambda features, width: {"queries": (width,), "keys": (width,)},
        say=lambda maps, features: dict(zip(("queries", "keys"), maps(features), strict=True)),
        projections=_all_as_said,
    ),
}


def leader_of(experiment: Experiment) -> int:
    """The id of the group leader: the last client."""
    return experiment.data.clients - 1


def form_of(experiment: Experiment, name: FormName) -> Form:
    """The form by its name; "auto" is "shared" where all peers have the same net, else "own".

    Raises:
        InputError: "shared", and the peers' nets differ.
    """
    nets = _nets_of_peers(experiment)
    if name == "shared" and len(nets) > 1:
        raise InputError(f'strategy.attention: nets {", ".join(nets)} have no common map of features: set it to "own"')
    return FORMS[("own" if len(nets) > 1 else "shared") if name == "auto" else name]


@final
@dataclass(frozen=True)
class Attending:
    """A peer's net with its maps to queries and keys."""

    net: Net
    maps: Attention
    form: Form

    @property
    def trained(self) -> nn.Module:
        """Both in one module."""
        return nn.ModuleDict({"net": self.net, "attention": self.maps})

    def say(self, batch: Batch) -> Said:
        """Logits (B, C), and what attention needs."""
        features = self.net.features(batch.images)  # (B, D)
        return {"logits": self.net.head("classifier", features), **self.form.say(self.maps, features)}

    def losses(self, said: Said, heard: Heard, *, temperature: float, weight: float) -> dict[str, Tensor]:
        """Times weight: its own of the ``attention_losses``, and the sum of the others', in which it has a share by its key."""
        logits = heard.with_mine("logits", said["logits"])  # (P, B, C)
        losses = attention_losses(logits, *self.form.projections(self.maps, said, heard), temperature=temperature)  # (P,)
        mine = heard.ids.index(heard.me)
        others = torch.cat([losses[:mine], losses[mine + 1 :]])  # (P - 1,)
        return {"distillation": weight * losses[mine], "others_distillation": weight * others.sum()}


def attend(client: Client, net: Net, form: FormName, width: int) -> Attending:
    """A client as an attending peer; its maps are kept in its memory."""
    chosen, sizes = form_of(client.experiment, form), attention_sizes(client, client.id, width)
    maps = client.module("attention", lambda: Attention(*sizes), init=chosen.init, keep=True)
    return Attending(net, maps, chosen)


def attending_shapes(server: Server, peer: int, form: FormName, width: int) -> dict[str, tuple[int, ...]]:
    """What an attending peer says, by name: shapes without (B, ...)."""
    shapes = form_of(server.experiment, form).shapes(*attention_sizes(server, peer, width))
    return {"logits": (server.classes,), **shapes}


def attention_sizes(node: Node, peer: int, width: int) -> tuple[int, int]:
    """D of a peer's net, and d of queries and keys: ``width``, or where it is 0 an eighth of the narrowest peer's D."""
    widths = node.live("widths of peers' nets", lambda: _widths(node))
    return widths[node.experiment.architecture_of(peer)], width or max(1, min(widths.values()) // 8)


def _widths(node: Node) -> dict[str, int]:
    names = _nets_of_peers(node.experiment)
    return {name: feature_width(node.net(f"width of {name}", architecture=name)) for name in names}


def _nets_of_peers(experiment: Experiment) -> list[str]:
    return sorted({experiment.architecture_of(peer) for peer in range(leader_of(experiment))})
