"""OKDDip: peers learn from targets that their attention to each other makes, and a group leader from all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedkd import Batch, Client, InputError, Knowledge, Needs, Node, Positive, Server, Settings, TensorSpec
from fedkd.losses import kd_loss
from fedkd.methods.peers.all_outputs import AllOutputs, PeerOutputs
from fedkd.methods.peers.family import LockstepStrategy
from fedkd.methods.peers.lockstep import Peer, gather, outputs_schema
from fedkd.methods.peers.turns import UpdateName
from fedkd.methods.ramp import ramped
from fedkd.nets import Net
from fedkd.targets import attention, mean_logits

FormName = Literal["auto", "shared", "own"]


@final
@dataclass(frozen=True)
class OKDDip(LockstepStrategy):
    """The last of K clients is the group leader, the others are its peers, P = K - 1; all take the same batches.

    Paper: Chen et al., "Online Knowledge Distillation with Diverse Peers", AAAI 2020, arXiv 1912.00350; network-based.
    What travels: for each batch up, of a peer, logits and features, 4 B (C + D) bytes, or with ``attention = "own"``
    logits, query and key, 4 B (C + 2 d), of the leader nothing; down, to all, what all peers sent. And a hash of the
    batch.
        peer a: CE(z_a, y) + w T^2 sum over peers c of KL(softmax(t_c / T) || softmax(z_c / T)),  t_c = sum_b A_cb z_b
        leader: CE(z, y) + w T^2 KL(softmax(mean_b z_b / T) || softmax(z / T)),
        A_cb = softmax_b(W_q h_c . W_k h_b), b = c too
    z_b in targets is a constant, A is not; what a peer receives is a constant to it. Beside its own term,
    ``distillation``, it has a share in the others' targets, ``others_distillation``, by its key: the gradient of its
    net is that of training all in one process.
    ``attention`` says whose the maps W are. "shared": the paper's, one W for all, with a replica at each peer. Features
    travel, so that each replica has the whole gradient of W. Replicas start equal and stay equal, on one machine bit
    for bit, while no peer misses a round and ``train.clip`` is 0 (it scales by a norm that each peer has its own of).
    "own": a W for each peer, for nets of different D; queries and keys travel. "auto": "shared" where the peers have
    the same net.
    Defaults: T = 3, d = D / 8 of the narrowest net; w rises to 1 over the first 80 of 300 epochs, here 0.27 of the
    rounds. Who fails leaves for the round; a leader alone learns from labels only. Nothing bounds A: nets without
    normalisation break down at rates that DML bears (the official code too): lower lr, or set train.clip.
    Deviations: the official code cuts no gradient, so that others' targets and the leader pull a peer's z too, adds
    1e-7 to targets' probabilities and has one optimiser.
    """

    temperature: Positive = 3.0  # T of softened predictions
    ramp: Annotated[float, Field(ge=0, le=1)] = 0.27  # share of the rounds until w is 1; 0 = from the start
    attention: FormName = "auto"  # one map for all, each peer its own, or "shared" where nets are equal
    projection: Annotated[int, Field(ge=0)] = 0  # d, width of queries and keys; 0 = an eighth of the narrowest features

    paper: ClassVar[str] = "Chen et al., AAAI 2020, arXiv 1912.00350"
    sends: ClassVar[str] = "logits and features, or queries and keys, of every mini-batch, both ways"
    needs: ClassVar[Needs] = Needs(labels=True, shared_data=True)
    update: ClassVar[UpdateName] = "simultaneous"

    def check(self, experiment: Settings) -> None:
        """Maps that all share need equal nets."""
        self.needs.check(type(self).__name__, experiment)
        self._form(experiment)

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """A peer's logits and what attention needs; nothing of the leader."""
        if client == leader_of(server.experiment):
            return {}
        attending = self._form(server.experiment).shapes(*self._widths(server, client))
        return outputs_schema(server, client, {"logits": (server.classes,), **attending}, self.update)

    def peer(self, client: Client) -> Peer:
        """A peer with its attention, or the leader."""
        net, weight = client.net(init="own", keep=True), ramped(client, self.ramp)
        if client.id == leader_of(client.experiment):
            return self._leader(net, weight)
        return self._peer(client, net, weight)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge | Mapping[int, Knowledge]:
        """Stack the peers' outputs; all receive them, the leader too."""
        leader = leader_of(server.experiment)
        return gather(server, {client: upload for client, upload in uploads.items() if client != leader}, self.update)

    def _peer(self, client: Client, net: Net, weight: float) -> Peer:
        form, widths = self._form(client.experiment), self._widths(client, client.id)
        maps = client.module("attention", lambda: Attention(*widths), init=form.init, keep=True)

        def forward(batch: Batch) -> PeerOutputs:
            features = net.features(batch.inputs)  # (B, D)
            return {"logits": net.head("classifier", features), **form.outputs(maps, features)}

        def loss(own: PeerOutputs, peers: AllOutputs, batch: Batch) -> dict[str, Tensor]:
            logits = peers.with_mine("logits", own["logits"])  # (P, B, C)
            projections = form.projections(maps, own, peers)  # (P, B, d) twice
            losses = attention_losses(logits, *projections, temperature=self.temperature)  # (P,)
            mine = peers.ids.index(peers.me)
            others = torch.cat([losses[:mine], losses[mine + 1 :]])  # (P - 1,)
            return {
                "cross_entropy": batch.cross_entropy(own["logits"]),
                "distillation": weight * losses[mine],
                "others_distillation": weight * others.sum(),
            }

        return Peer(nn.ModuleDict({"net": net, "attention": maps}), forward, loss, weight)

    def _leader(self, net: Net, weight: float) -> Peer:
        def loss(own: PeerOutputs, peers: AllOutputs, batch: Batch) -> dict[str, Tensor]:
            target = mean_logits(peers.tensors["logits"]).logits() if peers.ids else own["logits"]  # (B, C)
            distillation = weight * kd_loss(own["logits"], target, temperature=self.temperature)
            return {"cross_entropy": batch.cross_entropy(own["logits"]), "distillation": distillation}

        return Peer(net, lambda batch: {"logits": net(batch.inputs)}, loss, weight, withheld=("logits",))

    def _form(self, experiment: Settings) -> Form:
        """Raises InputError for "shared" where the peers' nets differ."""
        nets = nets_of_peers(experiment)
        if self.attention == "shared" and len(nets) > 1:
            raise InputError(
                f'strategy.attention: nets {", ".join(nets)} have no common map of features: set it to "own"'
            )
        return FORMS[("own" if len(nets) > 1 else "shared") if self.attention == "auto" else self.attention]

    def _widths(self, node: Node, peer: int) -> tuple[int, int]:
        """D of a peer's net, and d of queries and keys."""
        widths = node.live("widths of peers' nets", lambda: feature_widths(node))
        narrowest = min(widths.values())
        return widths[node.experiment.architecture_of(peer)], self.projection or max(1, narrowest // 8)


def leader_of(experiment: Settings) -> int:
    """The id of the group leader: the last client."""
    return experiment.data.clients - 1


def nets_of_peers(experiment: Settings) -> list[str]:
    """The names of the nets that peers have, each once."""
    return sorted({experiment.architecture_of(peer) for peer in range(leader_of(experiment))})


def feature_widths(node: Node) -> dict[str, int]:
    """D of each net that peers have."""
    names = nets_of_peers(node.experiment)
    return {name: node.net(f"width of {name}", architecture=name).feature_width for name in names}


# ---- how a peer attends


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

    The z_b in a target are constants, A is not: the gradient reaches every z_a as the student, and all queries and keys
    through the targets. Of live tensors of all peers this is joint training. Where all but one's are constants, that
    one's gradient of the sum is still the joint one. A target moves towards the peer's own prediction too: A = 1 would
    leave nothing to learn.

    Args:
        logits: (P, B, C), any float type; computed in float32 or better, outside autocast.
        queries: (P, B, d).
        keys: (P, B, d).
        temperature: T > 0.

    Returns:
        (P,) float32 or better, at least 0; 0 for a single peer, which attends to itself.

    Raises:
        ValueError: as ``fedkd.targets.attention``.

    >>> logits = torch.tensor([[[0.0, 0.0]], [[0.0, 6.0]]]).log1p()  # queries of 0 attend to both alike
    >>> losses = attention_losses(logits, torch.zeros(2, 1, 1), torch.ones(2, 1, 1), temperature=1.0)
    >>> [round(loss, 4) for loss in losses.tolist()]  # target log(7) / 2, so (p, 1 - p) with p = 1 / (1 + sqrt 7)
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
    """What peers upload for their attention, whose maps it has, and how all queries and keys come from that."""

    init: Literal["own", "shared"]
    shapes: Callable[[int, int], dict[str, tuple[int, ...]]]  # of D and d: without (B, ...)
    outputs: Callable[[Attention, Tensor], PeerOutputs]  # of features (B, D)
    projections: Callable[[Attention, PeerOutputs, AllOutputs], tuple[Tensor, Tensor]]  # queries, keys: (P, B, d) each


def project_all(maps: Attention, own: PeerOutputs, peers: AllOutputs) -> tuple[Tensor, Tensor]:
    """Queries and keys of all peers, from their features."""
    queries, keys = maps(peers.with_mine("features", own["features"]))  # (P, B, D) -> (P, B, d) each
    return queries, keys


def take_projected(maps: Attention, own: PeerOutputs, peers: AllOutputs) -> tuple[Tensor, Tensor]:
    """Queries and keys of all peers, as each of them projected its own features."""
    return peers.with_mine("queries", own["queries"]), peers.with_mine("keys", own["keys"])


FORMS: Mapping[str, Form] = {
    "shared": Form(
        init="shared",
        shapes=lambda features, width: {"features": (features,)},
        outputs=lambda maps, features: {"features": features},
        projections=project_all,
    ),
    "own": Form(
        init="own",
        shapes=lambda features, width: {"queries": (width,), "keys": (width,)},
        outputs=lambda maps, features: dict(zip(("queries", "keys"), maps(features), strict=True)),
        projections=take_projected,
    ),
}
