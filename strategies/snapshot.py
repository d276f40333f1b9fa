"""Snapshot distillation: one training in cycles, in each of which the net learns from itself at the end of the last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

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
    Strategy,
    classifier,
    fit,
)
from fedkd.aggregate import weighted_mean
from fedkd.experiment.algorithm.conditions import Idle, Unless, Within
from fedkd.losses import soft_cross_entropy
from fedkd.losses.precision import at_least_float32
from fedkd.methods.frozen_nets import TEACHER, frozen_net, student_tensors, tensors_under, with_teacher
from fedkd.methods.public_distillation import train_on_labels
from fedkd.nets import Net


@final
@dataclass(frozen=True)
class Snapshot(Strategy):
    """The net as it was at the end of a cycle of rounds teaches it through the next; it trains on from there.

    Paper: Yang et al., "Snapshot Distillation: Teacher-Student Optimization in One Generation", CVPR 2019, arXiv
    1812.00123; formulas and numbers are from memory and from an unofficial code, as there is no official one.
    What travels: weights and buffers, |θ| elements up and down; from the second cycle on the snapshot's too, as much
    again down, but for the round in which a cycle begins: there the net received is the snapshot.
        first cycle:  CE(z, y)
        later:        label_weight CE(z, y) - mean_b sum_c softmax(snapshot / T) log softmax(z)
    Asymmetric: only the teacher is softened, so no T^2. With one client it is the paper, with more FedAvg in cycles.
    Learning rates of [train] run their schedule once a cycle: ``schedule = "cosine"`` is the paper's, which ends each
    cycle near 0 and begins the next at the full rate, so that student and teacher differ. The optimiser's state stays
    at each client. The snapshot is in eval mode; the server keeps the last one, and the newest net.
    Defaults: T = 3, label_weight = 1 + 1 / T, as that code has them; its 300 epochs have 4 cycles.
    Deviations: cycles are whole rounds, there steps; the rate moves once a round, there each step.
    """

    cycle: Annotated[int, Field(ge=1)] = 10  # rounds of each cycle
    temperature: Positive = 3.0  # T of the snapshot's predictions; the student's are not softened
    label_weight: NonNegative = 1.3333  # of the cross-entropy with labels beside the snapshot's; 1 + 1 / T
    weight: NonNegative = 1.0  # of what the snapshot says

    paper: ClassVar[str] = "Yang et al., CVPR 2019, arXiv 1812.00123"
    sends: ClassVar[str] = "weights and buffers both ways, the last cycle's down"
    needs: ClassVar[Needs] = Needs(labels=True, equal_nets=True)
    idle: ClassVar[Idle] = {
        **dict.fromkeys(("label_weight", "weight"), (Within("cycle"),)),
        "temperature": (Within("cycle"), Unless(weight=0)),
    }

    def _number(self, node: Node) -> int:
        """Of this round's cycle, from 0."""
        return (max(1, node.round) - 1) // self.cycle

    def first_broadcast(self, server: Server) -> Knowledge:
        """The shared initial weights."""
        start = Knowledge.of("weights", server.net().state_dict(), header={"cycle": 0})
        server.memory.store("newest/", start.tensors)
        server.memory["cycle"] = 0
        return start

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs from the global weights, after the first cycle taught by the last snapshot."""
        start, taught = student_tensors(broadcast), tensors_under(broadcast, TEACHER)
        if broadcast.header["cycle"] != self._number(client):
            taught = start
        net, data = client.net(weights=start), client.train.labelled()
        lr = client.experiment.train.lr_at((client.round - 1) % self.cycle + 1, self.cycle)
        optimizer = client.optimizer("main", net, lr=lr)

        def loss(net: Net, batch: Batch, snapshot: Net) -> dict[str, Tensor]:
            logits = net(batch.inputs)  # (B, C)
            with torch.no_grad():
                target = (at_least_float32(snapshot(batch.inputs)) / self.temperature).softmax(1)  # (B, C)
            return {
                "cross_entropy": self.label_weight * batch.cross_entropy(logits),
                "distillation": self.weight * soft_cross_entropy(logits, target),
            }

        if taught:
            losses = fit(net, data, loss, given=(frozen_net(client, "snapshot", taught),), optimizer=optimizer)
        else:
            losses = train_on_labels(net, data, optimizer=optimizer)
        metrics = {**losses, "distillation_weight": self.weight if taught else 0.0}
        return Knowledge.of("weights", net.state_dict(), weight=len(data), metrics=metrics)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The mean, and the snapshot beside it unless the cycle ends here: then the mean is the next one."""
        mean, number = weighted_mean(uploads), self._number(server)
        if server.memory.get("cycle") != number:  # a cycle's first answers: what clients had before is the snapshot
            server.memory.store("snapshot/", server.memory.under("newest/"))
            server.memory["cycle"] = number
        server.memory.store("newest/", mean.tensors)
        told = mean.with_header(cycle=number)
        return with_teacher(told, server.memory.under("snapshot/")) if server.round % self.cycle else told

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The net as it is now, at the server and at every client."""
        return {"student": classifier(frozen_net(node, "student", student_tensors(broadcast)))}
