"""FedX: unsupervised federated learning with cross knowledge distillation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from fedkd import (
    Batch,
    Client,
    Embedder,
    InputError,
    Knowledge,
    Listed,
    Needs,
    Node,
    NonNegative,
    Positive,
    Server,
    Settings,
    Strategy,
)
from fedkd.base.inputs import concatenate, count, rows
from fedkd.experiment.algorithm.conditions import Idle, LeftOut, Unless
from fedkd.losses import nt_xent_loss, relational_loss
from fedkd.methods.contrastive import Base, Views, make_base
from fedkd.methods.encoders.global_encoder import average, first_weights, global_encoder, train_by
from fedkd.methods.frozen_nets import TEACHER, student_tensors, tensors_under, with_teacher
from fedkd.methods.ramp import sigmoid_ramp
from fedkd.nets import Net

PREDICTION = "prediction"
#: In the server's memory: the moving average of the global nets.
AVERAGE = "fedx/average/"
GLOBAL = ("global_contrastive", "global_relational")
Term = Literal["local_contrastive", "global_contrastive", "local_relational", "global_relational"]


@final
@dataclass(frozen=True)
class FedX(Strategy):
    """A local contrastive and a local relational term, and the same two against the frozen global net: all weigh 1.

    Paper: Han et al., "FedX: Unsupervised Federated Learning with Cross Knowledge Distillation", ECCV 2022, arXiv
    2207.09158.
    What travels: encoder, heads and buffers, down and up; |θ| elements each. The teacher is the global net as received.
    The defaults are what the official repository computes. It calls its relational loss JSD, but computes the reverse,
    ½KL(m‖a) + ½KL(m‖b), with gradients into the target m: ``divergence`` and ``detach_target`` choose. Its global
    contrastive term is one-sided (first view against the teacher's second), kept here.
    ``base`` gives the local contrastive term, with what it keeps and receives beside it; the three other terms see its
    projections z (MoCo's queries, BYOL's online net). Only the SimCLR row has public code; the others are our reading
    of the paper's "add-on": a base's own predictor is kept apart from FedX's prediction head.
    Ours, and off by default: before ``start_round`` clients train the base alone; the global terms' weight grows from
    then on over a share of the rounds (``ramp``); and the teacher is a moving average of the global nets
    (``teacher_decay``), which travels down beside the newest from the round on in which it teaches, |θ| elements more.
    Deviations, each a defect of that repository: any batch may be the last; weights are those of the round's
    participants; ``train.batch_size`` counts samples (64 there, printed as 128), 3 forwards each; integer counters are
    not averaged.
    """

    temperature: Positive = 0.1  # of NT-Xent, and of the student's relations
    local_target_temperature: Positive = 0.1  # of the local relational target (the repository's --ts)
    global_target_temperature: Positive = 0.1  # of the global relational target (the repository's --tt)
    divergence: Literal["reverse_kl", "jsd"] = "reverse_kl"  # the official code's, or the paper's
    detach_target: bool = False  # whether the relational terms' target is a constant, as the paper has it
    base: str = "simclr"  # what gives the local contrastive term: a name in fedkd.methods.contrastive.BASES
    base_options: dict[str, Any] = field(default_factory=dict)  # the base's own fields: {queue = 1024}
    without: Annotated[tuple[Term, ...], Listed, Field(max_length=3)] = ()  # terms left out, for ablations
    global_weight: NonNegative = 1.0  # of the two global terms
    start_round: Annotated[int, Field(ge=1)] = 1  # the first round with more than the base
    ramp: Annotated[float, Field(ge=0, le=1)] = 0.0  # share of the rounds over which the global terms' weight grows
    teacher_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0  # a round, of the average of global nets that teaches

    paper: ClassVar[str] = "Han et al., ECCV 2022, arXiv 2207.09158"
    sends: ClassVar[str] = "weights and buffers of encoder and heads, both ways"
    needs: ClassVar[Needs] = Needs(equal_nets=True, uses=("views", "representations"))
    idle: ClassVar[Idle] = {
        "global_weight": (LeftOut(*GLOBAL),),
        **dict.fromkeys(("ramp", "teacher_decay"), (LeftOut(*GLOBAL), Unless(global_weight=0))),
        "local_target_temperature": (LeftOut("local_relational"),),
        "global_target_temperature": (LeftOut("global_relational"), Unless(global_weight=0)),
        **dict.fromkeys(("divergence", "detach_target"), (LeftOut("local_relational", "global_relational"),)),
    }

    def check(self, experiment: Settings) -> None:
        """Also what the base asks for; and FedX starts at some time."""
        super().check(experiment)
        self.build_base().check(experiment)
        if self.start_round > experiment.rounds:
            never = f"there are {experiment.rounds} rounds, so FedX never starts: lower it, or take its base alone"
            raise InputError(f"strategy.start_round = {self.start_round}: {never}")

    def build_base(self) -> Base[Any]:
        """What gives the local contrastive term."""
        return make_base(self.base, self.base_options, temperature=self.temperature)

    def first_broadcast(self, server: Server) -> Knowledge:
        """The shared initial weights."""
        return first_weights(server, self.build_base(), PREDICTION)

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs against the frozen global net. Anchors come from a second stream over the same samples."""
        base, student = self.build_base(), Knowledge.of("weights", student_tensors(broadcast))
        if client.round < self.start_round:
            return train_by(client, student, base, PREDICTION)
        anchors, taught_by = client.train.stream("anchors"), tensors_under(broadcast, TEACHER) or student.tensors
        teacher = client.net("teacher", heads=(*base.heads, PREDICTION), weights=taught_by).eval().requires_grad_(False)
        grown = sigmoid_ramp(client.round - self.start_round, self.ramp * client.experiment.rounds)
        weight = self.global_weight * grown
        how: Any = {"temperature": self.temperature, "divergence": self.divergence, "detach_target": self.detach_target}
        relate: Any = partial(relational_loss, **how)

        def objective(net: Net, batch: Batch, state: Any) -> dict[str, Tensor]:
            inputs = concatenate([batch.view(1), batch.view(2), next(anchors).view(1)])  # (2B + A, ...)
            parts = [len(batch), len(batch), count(inputs) - 2 * len(batch)]
            projected = net.head("projection", net.features(inputs))  # z: (2B + A, 256)
            with torch.no_grad():  # the teacher's first view is in no term
                taught = teacher.head("projection", teacher.features(rows(inputs, slice(len(batch), None))))
            z1, z2, zr = projected.split(parts)
            p1, p2, _ = net.head("prediction", projected).split(parts)
            g2, gr = taught.split(parts[1:])
            views = Views(rows(inputs, slice(2 * len(batch))), projected[: 2 * len(batch)], batch.ids)
            own = {} if "local_contrastive" in self.without else base.loss(state, net, views)
            terms = {
                "global_contrastive": weight * nt_xent_loss(p1, g2, temperature=self.temperature),
                "local_relational": relate(z1, z2, zr, target_temperature=self.local_target_temperature),
                "global_relational": weight * relate(p1, p2, gr, target_temperature=self.global_target_temperature),
            }
            return {**own, **{name: term for name, term in terms.items() if name not in self.without}}

        return train_by(client, student, base, PREDICTION, objective=objective)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The mean, weighted by sample counts; and beside it the average of the means, where that teaches."""
        mean = average(server, uploads)
        if not self.teacher_decay:
            return mean
        past = server.memory.under(AVERAGE)
        average_now = {
            name: past[name].lerp(now, 1 - self.teacher_decay) if past and now.is_floating_point() else now
            for name, now in mean.tensors.items()
        }
        server.memory.store(AVERAGE, average_now)
        return with_teacher(mean, average_now) if server.round + 1 >= self.start_round else mean

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Embedder]:
        """The global encoder's features h, before the heads."""
        student = Knowledge.of("weights", student_tensors(broadcast))
        return global_encoder(node, student, self.build_base(), PREDICTION)
