"""FedKD: a large private mentor and a small shared mentee; only low-rank updates of the mentee travel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedkd import (
    Batch,
    Classifier,
    Client,
    InputError,
    Knowledge,
    Memory,
    Needs,
    Node,
    NonNegative,
    Server,
    Settings,
    Strategy,
    TensorSpec,
    UpTo,
    classifier,
    load,
)
from fedkd.aggregate import weighted_mean
from fedkd.experiment.algorithm.conditions import Idle, Unless
from fedkd.knowledge import codecs
from fedkd.knowledge.codecs.lowrank import FACTORS, compress, decompress
from fedkd.knowledge.knowledge import NEVER_NEGATIVE
from fedkd.losses import kd_loss, logit_mse
from fedkd.methods.mutual import fit_together, shared_net
from fedkd.nets import Net

#: No update of a net that trains is larger; factors within the guard's bounds may multiply to more.
LARGEST = 1e6
#: A variance that an update brings down to 0 may miss it by so much: less than what BatchNorm adds to it.
ROUNDING = 1e-6

Energy = Annotated[float, Field(gt=0, le=1)]


@final
@dataclass(frozen=True)
class FedKD(Strategy):
    """Mentor and mentee teach each other, the more the better both already are; the mentee's change is cut to low rank.

    Paper: Wu et al., "Communication-efficient federated learning via knowledge distillation", Nature Communications 13
    (2022), arXiv 2108.13323. For either net, q the other's prediction, H features and W a linear map from mentee to
    mentor:
        L = CE + (KL(q || p) + MSE(H_mentor, W H_mentee)) / (CE_mentor + CE_mentee)
    What travels: the change of the mentee (``shared_net``, default the server's net) in this round up, the mean change
    down: 4 r (m + n + 1) bytes for a tensor (m, n) cut to rank r, whole where that is not less; r is the smallest that
    holds more than a share e of the squares, e rising from ``e_start`` to ``e_end``. Who missed a round is sent all
    weights.
    At the client stay the mentor, and the state of one optimiser over both nets and W: as in the official code an
    update overwrites the mentee's weights and leaves its moments as they are. ``accuracy`` is the mentee's,
    ``client_accuracy`` that of the mentors. A lossy ``downlink`` may lose something of an update: the server's mentee
    moves by what clients read of it. All weights are sent to the bit.
    Deviations, most for defects of the official code: teachers and the sum of cross-entropies are constants; KL is
    averaged over the batch, not over classes too (``kl`` = 1 / C is that); W is trained; a flat spectrum is not cut to
    rank 0; buffers travel; features are the last layer's, attentions are not compared. ``least`` bounds the weight 1 /
    sum, which grows without end. Optimiser and rate are those of [train]; the code has Adam at 3e-6, for nets that are
    trained already.
    """

    kl: NonNegative = 1.0  # weight of the divergence between the predictions
    hidden: NonNegative = 1.0  # weight of the distance between the features, where both nets have features
    e_start: Energy = 0.95  # T_start: the share of energy that the low-rank updates keep in the first round
    e_end: Energy = 0.98  # T_end: the same in the last round
    least: Annotated[float, Field(gt=0)] = 0.1  # the least that the divisor of the distillation may be; ours

    paper: ClassVar[str] = "Wu et al., Nature Communications 2022, arXiv 2108.13323"
    sends: ClassVar[str] = "low-rank updates of a shared net, both ways"
    needs: ClassVar[Needs] = Needs(labels=True, uses=("server_net", "shared_net"))
    idle: ClassVar[Idle] = {"least": (Unless(kl=0, hidden=0),)}

    def check(self, experiment: Settings) -> None:
        """All clients must read the same of an update."""
        self.needs.check(type(self).__name__, experiment)
        check_downlink(self.downlink(experiment), type(self).__name__)

    def first_broadcast(self, server: Server) -> Knowledge:
        """All weights of the mentee."""
        return all_weights(shared_net(server, keep=True))

    def broadcast_again(self, server: Server) -> Knowledge:
        """All weights, whatever a client has received since."""
        return all_weights(shared_net(server, keep=True), int(server.memory.get("version", 0)))

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """The mentee's tensors, whole or in factors."""
        return parts_schema(shared_net(server, keep=True))

    def check_upload(self, server: Server, upload: Knowledge) -> None:
        """The parts must make up an update."""
        update_from(upload.tensors, shared_net(server, keep=True).state_dict())

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Bring the stored mentee up to date, train both nets, send how the mentee changed."""
        start, data = catch_up(client.memory, broadcast), client.train.labelled()
        mentor, mentee = client.net(init="own", keep=True), shared_net(client, start)
        nets = {"mentor": mentor, "mentee": mentee, **feature_map(client, mentee, mentor)}
        losses = fit_together(client, nets, data, self._loss)
        keep_feature_map(client, nets)
        change = {name: difference(tensor.cpu(), start[name]) for name, tensor in mentee.state_dict().items()}
        return Knowledge.of("weights", compress(change, self._energy(client)), weight=len(data), metrics=losses)

    def _loss(self, nets: Any, batch: Batch) -> dict[str, Tensor]:
        """The adaptive mutual loss of a batch; teachers are constants."""
        hidden_t, hidden_s = (nets[name].encoded(batch.inputs) for name in ("mentor", "mentee"))  # (B, D_t), (B, D_s)
        mentor = nets["mentor"].head("classifier", hidden_t)  # (B, C)
        mentee = nets["mentee"].head("classifier", hidden_s)  # (B, C)
        wrong_t, wrong_s = (batch.cross_entropy(logits) for logits in (mentor, mentee))
        trust = 1 / (wrong_t + wrong_s).detach().clamp_min(self.least)
        parts = {"mentor_cross_entropy": wrong_t, "mentee_cross_entropy": wrong_s}
        parts["mentor_distillation"] = trust * self.kl * kd_loss(mentor, mentee, temperature=1.0)
        parts["mentee_distillation"] = trust * self.kl * kd_loss(mentee, mentor, temperature=1.0)
        if "map" in nets:
            mapped = nets["map"](hidden_s)
            parts["mentor_hidden"] = trust * self.hidden * logit_mse(hidden_t, mapped)
            parts["mentee_hidden"] = trust * self.hidden * logit_mse(mapped, hidden_t)
        return parts

    def _energy(self, node: Node) -> float:
        return self.e_start + (self.e_end - self.e_start) * node.round / node.experiment.rounds

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Mapping[int, Knowledge]:
        """The plain mean of the changes, cut to low rank again, moves the mentee on."""
        net = shared_net(server, keep=True)
        changes = {k: Knowledge.of("weights", update_from(u.tensors, net.state_dict())) for k, u in uploads.items()}
        change = weighted_mean(changes, weights=[1.0] * len(changes)).tensors
        parts = compress(change, self._energy(server))
        return advance(server, net, parts, uploads, downlink=self.downlink(server.experiment))

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The mentee at the server, its mentor at a client."""
        if isinstance(node, Server):
            return {"mentee": classifier(shared_net(node, keep=True))}
        return {"mentor": classifier(node.net(init="own", keep=True))}


# ---- the mentee that server and clients all hold, brought up to date by low-rank parts of its updates
#
# Parts are what ``compress`` makes: a tensor whole under its name, or as three factors. Who is known to hold the net as
# it was is sent the update, everybody else all weights; both ends compute on the CPU, from equal bits to equal bits.
# Lossy codecs may take something of an update: the server moves by what clients read of it. All weights they leave
# alone.


def check_downlink(names: Sequence[str], name: str) -> None:
    """Raise InputError for codecs of which clients read different things: they would not hold the same net."""
    if not codecs.settled(codecs.chain(names, "downlink")):
        raise InputError(f'downlink: {name} needs equal nets at all clients: put "delta" behind the lossy codecs')


def parts_schema(net: Net) -> dict[str, TensorSpec]:
    """What a compressed update of this net's weights holds: either form of a tensor that may be smaller in factors.

    A rank r makes it smaller as long as r (m + n + 1) < m n, for a tensor flattened to (m, n).
    """
    schema = {}
    for name, tensor in net.state_dict().items():
        is_matrix = tensor.ndim > 1 and tensor.is_floating_point()
        m, n = (tensor.shape[0], math.prod(tensor.shape[1:])) if is_matrix else (0, 0)
        most = max(0, (m * n - 1) // (m + n + 1))
        schema[name] = TensorSpec(tuple(tensor.shape), tensor.dtype, "weights", optional=most > 0)
        if most:
            rank = UpTo(f"{name} rank", most)
            shapes: list[tuple[int | UpTo, ...]] = [(m, rank), (rank,), (rank, n)]
            for suffix, shape in zip(FACTORS, shapes, strict=True):
                schema[name + suffix] = TensorSpec(shape, tensor.dtype, "weights", optional=True)
    return schema


def difference(after: Tensor, before: Tensor) -> Tensor:
    """``after - before``, and 0 where they are equal: a mask of minus infinities has not changed."""
    return torch.where(after == before, torch.zeros_like(after), after - before)


def update_from(parts: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The update of these weights that the parts stand for. Raises ValueError where they are no sane update of them."""
    update = decompress(parts, {name: tuple(tensor.shape) for name, tensor in weights.items()})
    for name, tensor in update.items():
        if tensor.numel() and not float(tensor.abs().max()) <= LARGEST:
            raise ValueError(f"the update of {name} holds {float(tensor.abs().max()):g}, beyond {LARGEST:g}")
        if name.endswith(NEVER_NEGATIVE) and float((weights[name].cpu() + tensor.cpu()).min()) < -ROUNDING:
            raise ValueError(f"the update of {name} makes it negative")
    return update


def advanced(weights: Mapping[str, Tensor], parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights after the update that the parts stand for, on the CPU."""
    held = {name: tensor.cpu() for name, tensor in weights.items()}
    return {name: held[name] + change for name, change in update_from(parts, held).items()}


def all_weights(net: Net, version: int = 0) -> Knowledge:
    """The whole net to the bit, as of the round ``version``."""
    return Knowledge.of("weights", net.state_dict(), header={"version": version, codecs.EXACT: 1})


def advance(
    server: Server,
    net: Net,
    parts: Mapping[str, Tensor],
    uploads: Mapping[int, Knowledge],
    downlink: Sequence[str],
) -> dict[int, Knowledge]:
    """Bring the server's net up to date, by what clients will read; what each client is to be sent.

    A client holds the net as it was if its upload answers this very round: it was made from it, and it was accepted.
    """
    header = {"version": server.round, "after": int(server.memory.get("version", 0))}
    update = Knowledge.of("weights", parts, header=header)
    read = codecs.as_decoded(codecs.chain(downlink, "downlink"), update)  # by every client
    load(net, advanced(net.state_dict(), read.tensors))
    server.memory["version"] = server.round
    whole = all_weights(net, server.round)
    holds = {client for client, upload in uploads.items() if upload.header.get("round") == server.round}
    return {client: update if client in holds else whole for client in server.clients}


def catch_up(memory: Memory, broadcast: Knowledge) -> dict[str, Tensor]:
    """The net as everybody has it now, at a client that is sent all of it or an update; kept in the client's memory.

    An update that comes twice, as after a round that lost all uploads, counts once.

    Raises:
        ValueError: the update is of another version than the one held.
    """
    version, held = int(broadcast.header["version"]), memory.get("version")
    if "after" not in broadcast.header:
        weights = dict(broadcast.tensors)
    elif held == version:
        weights = memory.under("synchronised/")
    elif held == broadcast.header["after"]:
        weights = advanced(memory.under("synchronised/"), broadcast.tensors)
    else:
        raise ValueError(
            f"an update from version {broadcast.header['after']} to {version}, but this client holds {held}"
        )
    memory["version"] = version
    memory.store("synchronised/", weights)
    return weights


#: Where a client's memory holds the weights of its feature map.
FEATURE_MAP = "feature map/"


def feature_map(client: Client, student: Net, teacher: Net) -> dict[str, nn.Module]:
    """As ``map``, a linear map from one net's features to the other's, as ``keep_feature_map`` last kept it.

    Nothing where one of the nets has no features, as a user's module that gives logits only.
    """
    if not (student.has_features and teacher.has_features):
        return {}
    linear = nn.Linear(student.feature_width, teacher.feature_width, bias=False)
    if kept := client.memory.under(FEATURE_MAP):
        load(linear, kept)
    else:
        nn.init.xavier_uniform_(linear.weight, generator=client.rng("feature map"))
    return {"map": linear.to(client.device)}


def keep_feature_map(client: Client, nets: Mapping[str, nn.Module]) -> None:
    """Remember the ``map`` among these until this client's next call, if there is one."""
    if "map" in nets:
        client.memory.store(FEATURE_MAP, nets["map"].state_dict())
