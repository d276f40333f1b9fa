"""FedGKD: FedAvg whose clients keep in mind what the global nets of the last rounds said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fedkd import (
    Batch,
    Classifier,
    Client,
    Knowledge,
    Needs,
    Node,
    NonNegative,
    Positive,
    Server,
    Settings,
    Split,
    Strategy,
    classifier,
    fit,
    predict,
)
from fedkd.aggregate import weighted_mean
from fedkd.experiment.algorithm.conditions import Idle, Unless, When
from fedkd.losses import kd_loss
from fedkd.methods.public_distillation import train_on_labels
from fedkd.nets import Net

#: Name of a tensor of the i-th net that is broadcast beside the newest one.
BESIDE = "teacher/{}/"


@final
@dataclass(frozen=True)
class FedGKD(Strategy):
    """Cross-entropy plus distillation from the mean of the last global nets, or from each of them (FedGKD-VOTE).

    Paper: Yao et al., "FedGKD: Toward Heterogeneous Federated Learning via Global Knowledge Distillation", IEEE TC
    2023, arXiv 2107.00051.
    What travels: all weights and buffers, |θ| elements up; down as many, and beside them, once there are two global
    nets, those that teach: their mean, |θ| elements more, or with "vote" each but the newest, min(M, t - 1) - 1 times
    |θ| in round t, and how much each counts, which stands in the header. M = 1 adds nothing.
        mean:  gamma T² KL(mean of the last M global nets || own)
        vote:  gamma T² sum_m w_m KL(global net m || own),   w = softmax(-validation loss / vote_temperature)
    Nobody teaches in round 1, whose net is untrained. M nets stay in the server's memory. Teachers are in eval mode.
    The formulas are the official code's: that of the paper, which halves gamma, is from memory.
    Deviations: in that code the divergence of "vote" is computed without a gradient, so that nothing is taught, each
    process keeps what it was last sent, whoever's it was, and the name that its log wants does not exist; here it is
    taught, and the nets are the server's. ``vote_temperature`` has no default there. It averages clients uniformly,
    here they count by samples, so that gamma = 0 is FedAvg; and it clips gradients at 10, which is ``train.clip`` here.
    """

    gamma: NonNegative = 0.1  # weight of the distillation term; the official README's for CIFAR-10
    temperature: Positive = 1.0  # T, of both softmaxes; the term is multiplied by its square
    remembered: Annotated[int, Field(ge=1)] = 5  # M, how many of the last global nets teach
    teachers: Literal["mean", "vote"] = "mean"  # one net, their mean, or each of them by its loss on validation samples
    vote_temperature: Positive = 1.0  # of the softmax over validation losses; lower trusts the best more

    paper: ClassVar[str] = "Yao et al., IEEE TC 2023, arXiv 2107.00051"
    sends: ClassVar[str] = "weights and buffers, both ways, with those of earlier rounds down"
    needs: ClassVar[Needs] = Needs(labels=True, equal_nets=True, uses=("validation",))
    idle: ClassVar[Idle] = {
        **dict.fromkeys(("temperature", "remembered"), (Unless(gamma=0),)),
        "teachers": (Unless(gamma=0), Unless(remembered=1)),
        "vote_temperature": (When("teachers", "vote"), Unless(gamma=0), Unless(remembered=1)),
        "validation": (When("teachers", "vote"),),
    }

    def check(self, experiment: Settings) -> None:
        """Votes are weighed on validation samples."""
        needs = Needs(labels=True, equal_nets=True, validation=self.teachers == "vote")
        needs.check(type(self).__name__, experiment)

    def first_broadcast(self, server: Server) -> Knowledge:
        """The shared initial weights, and no teacher."""
        return Knowledge.of("weights", server.net().state_dict(), header=shares_said(()))

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs from the newest global weights, against the frozen nets that teach."""
        net, data = client.net(weights=newest(broadcast)), client.train.labelled()
        teachers, shares = teaching(client, broadcast)

        def loss(net: Net, batch: Batch, teachers: Sequence[Net], shares: Sequence[float]) -> dict[str, Tensor]:
            logits = net(batch.inputs)  # (B, C)
            with torch.no_grad():
                taught = [teacher(batch.inputs) for teacher in teachers]
            distillation = voted_loss(logits, taught, shares, temperature=self.temperature)
            return {"cross_entropy": batch.cross_entropy(logits), "distillation": self.gamma * distillation}

        losses = fit(net, data, loss, given=(teachers, shares)) if teachers else train_on_labels(net, data)
        return Knowledge.of("weights", net.state_dict(), weight=len(data), metrics=losses)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The mean, weighted by sample counts, and the nets of the last rounds beside it."""
        now = weighted_mean(uploads).tensors
        past = remember(server, now, self.remembered)
        if len(past) == 1:
            return Knowledge.of("weights", now, header=shares_said((1.0,)))
        if self.teachers == "mean":
            equal = {place: Knowledge.of("weights", net) for place, net in enumerate(past)}
            mean = weighted_mean(equal, weights=[1.0] * len(past)).tensors
            return Knowledge.of("weights", {**now, **beside([mean])}, header=shares_said((1.0,)))
        losses = torch.stack([validation_loss(server, weights) for weights in past])
        shares = (-losses / self.vote_temperature).softmax(0).tolist()
        return Knowledge.of("weights", {**now, **beside(past[:-1])}, header=shares_said(shares))

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The newest global net, at the server and at every client."""
        return {"global": classifier(node.net("broadcast", weights=newest(broadcast)))}


def voted_loss(student: Tensor, teachers: Sequence[Tensor], shares: Sequence[float], *, temperature: float) -> Tensor:
    """The sum over teachers of share times T² KL(teacher || student), of logits (B, C) each. Scalar.

    >>> student, teacher = torch.zeros(1, 2), torch.tensor([[0.0, 3.0]]).log1p()  # (1/2, 1/2) and (1/5, 4/5)
    >>> round(voted_loss(student, [student, teacher], [0.75, 0.25], temperature=1.0).item(), 4)  # 0.1927 / 4
    0.0482
    """
    pairs = zip(teachers, shares, strict=True)
    return sum((s * kd_loss(student, t, temperature=temperature) for t, s in pairs), start=student.new_zeros(()))


# ---- what the server remembers, and how it says it


def remember(server: Server, weights: Mapping[str, Tensor], most: int) -> list[Mapping[str, Tensor]]:
    """The last ``most`` global nets with this one, oldest first; kept in the server's memory."""
    past: list[Mapping[str, Tensor]] = []
    while held := server.memory.under(f"past/{len(past)}/"):
        past.append(held)
    past = [*past, weights][-most:]
    for place, net in enumerate(past):
        server.memory.store(f"past/{place}/", net)
    return past


def validation_loss(server: Server, weights: Mapping[str, Tensor]) -> Tensor:
    """The mean cross-entropy on the server's validation samples of a net with these weights. Scalar float64."""
    data: Split = server.validation
    logits = predict(server.net("past", weights=weights).eval(), data.samples, data.work)  # (M, C)
    return F.cross_entropy(logits.double(), data.samples.labels[data.samples.indices])


def beside(nets: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of nets under names that no net has."""
    return {BESIDE.format(place) + name: tensor for place, net in enumerate(nets) for name, tensor in net.items()}


def newest(broadcast: Knowledge) -> dict[str, Tensor]:
    """The weights that clients start from."""
    return {name: tensor for name, tensor in broadcast.tensors.items() if not name.startswith("teacher/")}


def shares_said(shares: Sequence[float]) -> dict[str, str]:
    """The header that says how much each teacher counts; as many as there are teachers."""
    return {"shares": " ".join(map(repr, shares))}


def teaching(client: Client, broadcast: Knowledge) -> tuple[list[nn.Module], list[float]]:
    """The frozen nets that teach, and how much each counts: those sent, and the received one if one lacks."""
    shares = [float(share) for share in str(broadcast.header["shares"]).split()]
    nets: list[nn.Module] = []
    for place in range(len(shares)):
        prefix = BESIDE.format(place)
        sent = {n.removeprefix(prefix): t for n, t in broadcast.tensors.items() if n.startswith(prefix)}
        nets.append(client.net(f"teacher {place}", weights=sent or newest(broadcast)).eval().requires_grad_(False))
    return nets, shares
