"""FedFTG: FedAvg whose mean is tuned at the server, on samples that a generator makes where it and clients disagree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import torch
import torch.nn.functional as F
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
    broadcast_net,
    classifier,
    fit,
)
from fedkd.aggregate import stack, weighted_mean
from fedkd.experiment.algorithm.conditions import Idle, Unless
from fedkd.experiment.algorithm.optimizer_state import trainable
from fedkd.experiment.algorithm.train import Draw
from fedkd.losses import diversity_loss, soft_cross_entropy
from fedkd.losses.precision import at_least_float32
from fedkd.methods.frozen_nets import frozen_net
from fedkd.methods.public_distillation import train_on_labels
from fedkd.methods.synthesis import as_split, check_made, make_generator, seek, sound
from fedkd.nets import Net
from fedkd.nets.generator import Generator

Steps = Annotated[int, Field(ge=1)]
Several = Annotated[int, Field(ge=2)]
#: How many numbers a sample is made of, beside its class.
NOISE = 100
#: In an upload: how many samples of each class its client has.
COUNTS = "class_counts"


@final
@dataclass(frozen=True)
class FedFTG(Strategy):
    """Clients train the global net; their mean learns from their nets, each by the classes that its client holds.

    Paper: Zhang et al., "Fine-tuning Global Model via Data-Free Knowledge Distillation for Non-IID Federated Learning",
    CVPR 2022, arXiv 2203.09249.
    What travels: all weights and buffers, |θ| elements down and up, and how many samples of each class the client has,
    C numbers (4 |θ| + 4 C bytes up, where all is of 4 bytes).
    The server, after FedAvg, for ``iterations`` batches of noise z and labels y, these as frequent as clients together
    have them, with x = G(z, y), client k's net t_k, the mean's s, and w_k(y) = n_k^y / sum over clients of n^y:
        for each client in turn G steps down   mean(w_k(y) CE(t_k(x), y)) - mean(w_k(y) |s(x) - t_k(x)|)
                                               + exp(-mean(|z_i - z_j|² |x_i - x_j|)) / K
        ``student_steps`` times s steps down   mean(- sum_c (sum_k w_k(y) softmax(t_k(x)))_c log softmax(s(x))_c)
    with t_k a constant in the difference, which is a mean over classes. G stays at the server over the rounds; both
    optimisers, Adam and SGD, are new each round, at rates that fall by ``decay``.
    Formulas are the official code's. Deviations from it: there the cross-entropy is a mean before w_k(y) is multiplied,
    so that w_k(y) weighs no sample; and the student's loss is a mean over classes too, C times smaller, at a rate of
    0.1, which for ten classes is the 0.01 here. x is normalised as nets' inputs are:
    norms of G use the batch at hand, there running statistics while s learns. Labels are drawn, there dealt out in
    proportion. One Linear takes noise and label, there each its own. No weight decay; gradients are clipped by
    ``train.clip``, there, at clients, at 10. Nets whose logits are not finite do not teach.
    """

    iterations: Annotated[int, Field(ge=0)] = 10  # batches of samples a round; 0 = FedAvg
    student_steps: Steps = 5  # of the mean, on each of them
    batch_size: Several = 50  # samples of each
    generator_lr: Positive = 0.01  # of Adam
    generator_width: Steps = 64  # channels of its last hidden map
    label_weight: NonNegative = 1.0  # of the cross-entropy
    adversarial_weight: NonNegative = 1.0  # of the difference that is sought
    diversity_weight: NonNegative = 1.0  # of the term that tells samples apart
    lr: Positive = 0.01  # of the mean's SGD
    decay: Positive = 0.998  # of both rates, a round

    paper: ClassVar[str] = "Zhang et al., CVPR 2022, arXiv 2203.09249"
    sends: ClassVar[str] = "weights and buffers, both ways; counts by class up"
    needs: ClassVar[Needs] = Needs(labels=True, equal_nets=True)
    idle: ClassVar[Idle] = dict.fromkeys(
        (
            *("student_steps", "batch_size", "generator_lr", "generator_width"),
            *("label_weight", "adversarial_weight", "diversity_weight", "lr", "decay"),
        ),
        (Unless(iterations=0),),
    )

    def check_samples(self, node: Node) -> None:
        """Samples of real numbers, where some are made."""
        if self.iterations:
            check_made("fedftg", node)

    def first_broadcast(self, server: Server) -> Knowledge:
        """The shared initial weights."""
        return Knowledge.of("weights", server.net().state_dict())

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """Weights and buffers, and a count for each class."""
        counts = {COUNTS: TensorSpec((server.classes,), torch.int32, "counts")}
        return {**super().upload_schema(server, client), **counts}

    def check_upload(self, server: Server, upload: Knowledge) -> None:
        """As many samples of all classes as the upload weighs."""
        if (samples := int(upload.tensors[COUNTS].sum())) != upload.weight:
            raise ValueError(f"its classes have {samples} samples, its weight is {upload.weight:g}")

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs of cross-entropy, from the global weights."""
        net, data = client.net(weights=broadcast.tensors), client.train.labelled()
        losses = train_on_labels(net, data)
        upload = Knowledge.of("weights", net.state_dict(), weight=len(data), metrics=losses)
        return upload.with_tensors("counts", {COUNTS: data.samples.label_counts().int()})

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The mean, weighted by sample counts, and what it learns from the nets that it is the mean of."""
        mean = weighted_mean(uploads)
        mean = Knowledge.of("weights", {name: t for name, t in mean.tensors.items() if name != COUNTS})
        if not self.iterations:
            return mean
        nets = {}
        for client, upload in uploads.items():
            weights = {name: tensor for name, tensor in upload.tensors.items() if name != COUNTS}
            nets[client] = frozen_net(server, f"teacher {client}", weights)
        if not (teachers := sound(server, nets)):
            return mean
        net = server.net("mean", weights=mean.tensors)
        counts = stack({client: uploads[client] for client in teachers}, COUNTS)  # (K, C)
        server.report(self._tune(server, net, [*teachers.values()], counts))
        return Knowledge.of("weights", net.state_dict())

    def _tune(self, server: Server, net: Net, teachers: list[Net], counts: Tensor) -> dict[str, float]:
        """Train generator and mean; the means of the parts of their losses."""
        generator = make_generator(server, noise=NOISE, width=self.generator_width, told=True, keep=True)
        rate, rng = self.decay ** (server.round - 1), server.rng("synthesis")
        adam = torch.optim.Adam(generator.parameters(), lr=self.generator_lr * rate, fused=True)
        sgd = torch.optim.SGD(trainable(net, server.work().where), lr=self.lr * rate)
        shares = class_shares(counts).to(server.device)  # (K, C)

        def learn(net: Net, batch: Batch, targets: Tensor) -> dict[str, Tensor]:
            return {"distillation": soft_cross_entropy(net(batch.inputs), targets[batch.positions])}

        reports: list[dict[str, float]] = []
        for _ in range(self.iterations):
            noise = torch.randn(self.batch_size, NOISE, generator=rng).to(server.device)
            labels = torch.multinomial(counts.sum(0).float(), self.batch_size, True, generator=rng).to(server.device)
            wanted = self._seek(server, generator, adam, net, teachers, shares, noise, labels)
            with torch.no_grad(), server.work().autocast():
                made = generator(noise, labels).float()
                said = torch.stack([teacher(made) for teacher in teachers]).float().softmax(2)  # (K, B, C)
            targets = (shares[:, labels, None] * said).sum(0)  # (B, C)
            draws = [Draw(torch.arange(self.batch_size), 0)] * (self.student_steps * server.experiment.train.accumulate)
            losses = fit(net, as_split(server, made), learn, given=(targets,), optimizer=sgd, draws=draws)
            reports.append(wanted | losses)
        return {name: sum(each[name] for each in reports) / self.iterations for name in reports[0] if name != "loss"}

    def _seek(
        self,
        server: Server,
        generator: Generator,
        adam: torch.optim.Optimizer,
        net: Net,
        teachers: list[Net],
        shares: Tensor,
        noise: Tensor,
        labels: Tensor,
    ) -> dict[str, float]:
        """A step of the generator for each client in turn; the means of the parts of its loss."""
        net.eval().requires_grad_(False)
        logged = []
        for teacher, share in zip(teachers, shares, strict=True):

            def wanted(samples: Tensor, teacher: Net = teacher, share: Tensor = share) -> dict[str, Tensor]:
                parts = self.parts(teacher(samples), net(samples), labels, share[labels])
                alike = diversity_loss(noise, samples) / len(teachers)
                return {**parts, "diversity": self.diversity_weight * alike}

            logged.append(seek(server, generator, adam, wanted, noise, labels)[1])
        net.requires_grad_(True)
        return {name: float(sum(each[name] for each in logged) / len(logged)) for name in logged[0]}

    def parts(self, teacher: Tensor, student: Tensor, labels: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """Of a loss of the generator: logits (B, C) of a client's net and of the mean, labels (B,), weights (B,)."""
        teacher, student = at_least_float32(teacher), at_least_float32(student)
        label = (F.cross_entropy(teacher, labels, reduction="none") * weights).mean()
        apart = ((student - teacher.detach()).abs().mean(1) * weights).mean()
        return {"label": self.label_weight * label, "adversarial": -self.adversarial_weight * apart}

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The global net, at the server and at every client."""
        return {"global": classifier(broadcast_net(node, broadcast))}


def class_shares(counts: Tensor) -> Tensor:
    """Which part of all samples of a class each client has, (K, C) of counts (K, C); 0 where nobody has one.

    >>> class_shares(torch.tensor([[3, 0], [1, 0]]))
    tensor([[0.7500, 0.0000],
            [0.2500, 0.0000]])
    """
    return counts / counts.sum(0).clamp_min(1)
