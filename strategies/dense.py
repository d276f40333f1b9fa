"""DENSE: in one shot, a generator makes samples on which the clients' nets together teach a student."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    TensorSpec,
    fit,
    predict,
)
from fedkd.losses import cross_entropy_loss, disagreement, kd_loss
from fedkd.methods import one_shot
from fedkd.methods.synthesis import as_split, check_made, make_generator, synthesise
from fedkd.nets import Net
from fedkd.nets.batch_statistics import StatisticsGap
from fedkd.nets.generator import Generator

Steps = Annotated[int, Field(ge=1)]
Several = Annotated[int, Field(ge=2)]
#: How many numbers a sample is made of.
NOISE = 256
#: In the server's memory: all samples that were made.
POOL = "pool"


@final
@dataclass(frozen=True)
class Dense(Strategy):
    """Clients train once and send their nets once; the server makes samples of nothing, and teaches a student on them.

    Paper: Zhang et al., "DENSE: Data-Free One-Shot Federated Learning", NeurIPS 2022, arXiv 2112.12371.
    What travels: weights and buffers of a client's net up, |θ_k| elements in the round in which it is first asked;
    those of the student down, |θ_S| elements in each round but the first. Nets may differ, also from ``server_net``.
    In its first round a client trains on its labels, from weights that all share: to convergence, so ``train.epochs``
    should be large. From then on it only measures the student ("loss"). Each round the server takes ``epochs`` steps of
        a generator G and noise z start anew and descend, for labels y drawn evenly, x = G(z) and the mean logits t of
        the clients' nets that have come so far:
            a sum_l (|mean_l - running mean_l| + |variance_l - running variance_l|)       over BatchNorm layers l
            + b CE(t(x), y) - c mean(m KL(t(x) || s(x))),   m = 1 where student s and t name different classes, else 0
        the best batch x joins a pool, and the student learns the whole pool once: T² KL(t || s)
    so rounds times epochs is what the paper calls epochs. One round is one shot; more show how the student gets on.
    x is normalised as nets' inputs are. Pool and clients' nets stay in the server's memory.
    Deviations from the official code: there the first term is always 0, as nets in a list are not looked through, and
    the nets are in train mode; here it is the mean over clients, as in Co-Boosting's code. x is not cropped and flipped
    at random, neither for G nor for the student: vectors cannot be, and so t is computed once for each sample. Samples
    are kept as they are, there with 8 bits. The student is in eval mode where it is only asked. Not the epoch that did
    best on the test set counts. Its optimiser is that of [train], there SGD with momentum 0.9. Vectors and signals have
    a generator of two hidden layers. Defaults are smaller than the code's, for small samples.
    """

    epochs: Steps = 10  # of the server, each round; 200 in all in the code
    batch_size: Several = 64  # samples an epoch makes, and of the student's batches; 256 in the code
    generator_steps: Steps = 30  # of each epoch
    generator_lr: Positive = 1e-3  # of Adam
    generator_width: Steps = 32  # channels of its last hidden map; 64 in the code
    statistics_weight: NonNegative = 1.0  # a, of the gap to the nets' BatchNorm statistics
    label_weight: NonNegative = 1.0  # b, of the cross-entropy
    adversarial_weight: NonNegative = 1.0  # c, of the disagreement that is sought
    temperature: Positive = 20.0  # T of the student's loss
    lr: Positive = 0.005  # of the student

    paper: ClassVar[str] = "Zhang et al., NeurIPS 2022, arXiv 2112.12371"
    sends: ClassVar[str] = "clients' nets up, once; the student's weights and buffers down"
    needs: ClassVar[Needs] = Needs(labels=True, uses=("server_net",))

    def check_samples(self, node: Node) -> None:
        """Samples of real numbers; without BatchNorm layers a term is nothing, which is said."""
        check_made("dense", node)
        one_shot.say_if_without_norms(node, "statistics_weight", self.statistics_weight)

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """A client's net, until it has come."""
        return one_shot.once_schema(server, client)

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Cross-entropy on the client's own net, once."""
        return one_shot.train_once(client, broadcast)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Mapping[int, Knowledge]:
        """Epochs of a generator and of the student."""
        if teachers := [*one_shot.take(server, uploads).values()]:
            self._distil(server, teachers)
        return one_shot.send_student(server)

    def _distil(self, server: Server, teachers: list[Net]) -> None:
        student, rng = one_shot.student_net(server), server.rng("synthesis")
        generator = make_generator(server, noise=NOISE, width=self.generator_width)
        optimizer, taught = server.optimizer("student", student, lr=self.lr), mean_logits(teachers)
        pool = [server.memory.tensor(POOL)] if POOL in server.memory else []
        targets = [predict(taught, as_split(server, held).samples, server.work()) for held in pool]

        def learn(net: Net, batch: Batch, targets: Tensor) -> dict[str, Tensor]:
            return {"distillation": kd_loss(net(batch.inputs), targets[batch.positions], temperature=self.temperature)}

        reports: list[dict[str, float]] = []
        for _ in range(self.epochs):
            labels = torch.randint(server.classes, (self.batch_size,), generator=rng).to(server.device)
            made, wanted = self._make(server, generator, teachers, student, labels, rng)
            pool.append(made)
            targets.append(predict(taught, as_split(server, made).samples, server.work()))
            data = as_split(server, torch.cat(pool))
            draws = data.draws(epochs=1, batch_size=self.batch_size, rng=rng)
            given = (torch.cat(targets).to(server.device),)
            reports.append(wanted | fit(student, data, learn, given=given, optimizer=optimizer, draws=draws))
        server.memory[POOL] = torch.cat(pool)
        server.report(
            {name: sum(each[name] for each in reports) / self.epochs for name in reports[0] if name != "loss"}
        )

    def _make(
        self,
        server: Server,
        generator: Generator,
        teachers: list[Net],
        student: Net,
        labels: Tensor,
        rng: torch.Generator,
    ) -> tuple[Tensor, dict[str, float]]:
        """A batch of samples (B, ...), and the parts of its loss."""
        taught = mean_logits(teachers)
        student.eval().requires_grad_(False)
        with StatisticsGap(teachers if self.statistics_weight else ()) as gap:

            def wanted(samples: Tensor) -> dict[str, Tensor]:
                logits = taught(samples)  # (B, C)
                parts = {"label": self.label_weight * cross_entropy_loss(logits, labels)}
                if self.statistics_weight:
                    parts["statistics"] = self.statistics_weight * gap.take()
                if self.adversarial_weight:
                    apart = disagreement(student(samples), logits, where_classes_differ=True)
                    parts["adversarial"] = -self.adversarial_weight * apart
                return parts

            steps, lr = self.generator_steps, self.generator_lr
            made, parts = synthesise(server, generator, wanted, size=len(labels), steps=steps, lr=lr, rng=rng)
        student.requires_grad_(True)
        return made, parts

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The student, at the server and at clients."""
        return one_shot.student_predictors(node, broadcast)


def mean_logits(teachers: list[Net]) -> Callable[[Tensor], Tensor]:
    """The function of samples that gives the mean of several nets' logits (B, C), in float32."""
    return lambda samples: torch.stack([teacher(samples) for teacher in teachers]).float().mean(0)
