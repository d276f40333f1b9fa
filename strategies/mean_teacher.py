"""Mean teacher: a student agrees, on samples without labels too, with the moving average of its own weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

from torch import Tensor, nn

from fedkd import (
    Batch,
    Classifier,
    Client,
    Knowledge,
    Needs,
    Node,
    NonNegative,
    Server,
    Share,
    Strategy,
    classifier,
    fit,
    load,
)
from fedkd.aggregate import weighted_mean
from fedkd.experiment.algorithm.conditions import Idle, Unless
from fedkd.losses import kd_loss
from fedkd.methods.ramp import ramped
from fedkd.nets import MovingAverage


@final
@dataclass(frozen=True)
class MeanTeacher(Strategy):
    """Few labels: the student learns them, and to predict of one view of a sample what its teacher predicts of another.

    Paper: Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017, arXiv 1703.01780; defaults are
    those of the official PyTorch code on CIFAR-10. Set ``data.labelled`` below 1. With one client it is the paper.
    What travels: weights and buffers of student and teacher, and the teacher's count of steps, down and up; 2 |θ|
    elements and one each. Both are averaged, weighted by sample counts; of the counts the largest is taken.
        loss = CE of the labelled samples, summed, / B
               + w(t) mean over B and C of (softmax(student) - softmax(teacher))^2
        teacher <- a teacher + (1 - a) student after each step t = 1, 2 ..., over all rounds;
        a = min(1 - 1 / (t + 1), decay)
    Student and teacher see independent views of ``data.views``. As in the official code the teacher is run in train
    mode and has BatchNorm statistics of its own: of its passes over its views, not averages of the student's. No
    gradient reaches it. The optimiser's state stays at the client, so that one client's rounds are one training.
    ``accuracy`` is the teacher's.
    Deviations: there is one head of logits. The official CIFAR-10 experiment has two, one for the labels and one for
    the consistency, tied by 0.01 times the mean squared difference of their logits; that code's main program has one by
    default. A teacher starts as its student, not from weights of its own. Batches are drawn from all samples; the code
    fills a fixed quarter with labelled ones. w grows once a round, there once an epoch. No noise but the views';
    [train] has the rates.
    """

    weight: NonNegative = 100.0  # w at full height; 100 goes with a mean over classes
    ramp: Share = 0.03  # share of the rounds over which w grows to it; 5 of 180 epochs in the code
    decay: Share = 0.97  # at most; nearer to 1 for longer runs (0.99 and 0.999 in the paper)

    paper: ClassVar[str] = "Tarvainen and Valpola, NeurIPS 2017, arXiv 1703.01780"
    sends: ClassVar[str] = "weights and buffers of student and teacher, both ways"
    teaches: ClassVar[str] = "teacher.net."
    needs: ClassVar[Needs] = Needs(labels=True, equal_nets=True, uses=("views",))
    idle: ClassVar[Idle] = {"ramp": (Unless(weight=0),)}

    def first_broadcast(self, server: Server) -> Knowledge:
        """The shared initial weights, twice; no step yet."""
        return Knowledge.of("weights", self._pair(server).state_dict())

    def check_upload(self, server: Server, upload: Knowledge) -> None:
        """A count that clients can go on from: the largest is taken."""
        if not 0 <= int(upload.tensors["teacher.steps"]) <= 2**53:
            raise ValueError("its count of steps is negative or beyond 2^53")

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs on all samples; the teacher moves after each step."""
        nets, data, weight = self._pair(client, broadcast), client.train, self.weight * ramped(client, self.ramp)

        def loss(nets: Any, batch: Batch) -> dict[str, Tensor]:
            target = nets["teacher"](batch.view(1))  # (B, C), a constant
            logits = nets["student"](batch.view(0))
            # The mean squared difference of probabilities.
            consistency = kd_loss(logits, target, temperature=1.0, preset="kd_lib")
            return {"cross_entropy": batch.labelled_cross_entropy(logits), "consistency": weight * consistency}

        optimizer = client.optimizer("student", nets["student"])
        losses = fit(nets, data, loss, optimizer=optimizer, after_step=lambda: nets["teacher"].follow(nets["student"]))
        metrics = {**losses, "distillation_weight": weight}
        return Knowledge.of("weights", nets.state_dict(), weight=len(data), metrics=metrics)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The means of the students and of the teachers."""
        return weighted_mean(uploads)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """Both global nets, at the server and at every client."""
        nets = self._pair(node, broadcast)
        return {"teacher": classifier(nets["teacher"]), "student": classifier(nets["student"])}

    def _pair(self, node: Node, broadcast: Knowledge | None = None) -> Any:
        """Student and teacher, from shared initial weights or as broadcast."""
        student = node.net("student", architecture=node.experiment.architectures[0])
        nets = nn.ModuleDict({"student": student, "teacher": MovingAverage(student, most=self.decay, first=1)})
        if broadcast is not None:
            load(nets, broadcast.tensors)
        return nets
