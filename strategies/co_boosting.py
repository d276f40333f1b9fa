"""Co-Boosting: DENSE whose samples are made harder, and whose teachers are weighed by how well they name them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    fit,
    predict,
)
from fedkd.experiment.algorithm.conditions import Idle, Unless
from fedkd.losses import disagreement, kd_loss
from fedkd.losses.precision import at_least_float32
from fedkd.methods import one_shot
from fedkd.methods.synthesis import as_split, check_made, make_generator, synthesise
from fedkd.nets import Net
from fedkd.nets.generator import Generator

Steps = Annotated[int, Field(ge=1)]
Several = Annotated[int, Field(ge=2)]
#: How many numbers a sample is made of; temperatures of the disagreement that is sought, and of the direction to go in.
NOISE, SOUGHT_AT, PERTURBED_AT = 256, 3.0, 4.0
#: In the server's memory: all samples that were made, the classes that they were made for, how many epochs there were.
POOL, LABELS, EPOCHS = "pool", "pool_labels", "epochs"
#: In the server's memory: what a client's net counts for; its id follows.
WEIGHT = "weight/"


@final
@dataclass(frozen=True)
class CoBoosting(Strategy):
    """One shot, as DENSE: but hard samples are sought, moved to where teachers are unsure, and teachers are weighed.

    Paper: Dai et al., "Enhancing One-Shot Federated Learning Through Data and Ensemble Co-Boosting", ICLR 2024, arXiv
    2402.15070.
    What travels: as in DENSE, weights and buffers of a client's net up, |θ_k| elements, once, and those of the student
    down, |θ_S| elements in each round but the first. Nets may differ. Clients train once; rounds times ``epochs`` are
    the paper's epochs. In each of them, with the mean t of the clients' logits, weighted by w:
        generator   b mean((1 - p_y)^h CE(t(x), y)) - c mean 9 KL(t(x) || s(x)) at T = 3,   p = softmax(t), a constant
        weights     w <- w - mu 0.99^epoch sign(gradient of CE(t, y) by w), within 0..1, on the pool, not in epoch 0
        student     x <- x + epsilon sign(gradient by x of sum_c u_c softmax(t(x) / 4)_c),   u uniform in -1..1
                    T² KL(t(x) || s(x)), over the whole pool once
    All weights start as 1 / K. x is normalised as nets' inputs are, and epsilon is in these units, as in the code.
    Formulas are the official code's. Deviations from it: the weights take one step an epoch, with the gradient on the
    whole pool; there one for each batch of it, so that their number grows and ten of 0.01 take 1/10 to 0. Should all
    weights reach 0, they stay as they were. The student's optimiser is that of [train] at a constant rate; there SGD
    with momentum 0.9, weight decay and half a cosine. Gradients are clipped by ``train.clip``; there at 10. Samples are
    kept as they are, there with 8 bits, those of CIFAR cropped and flipped at random when they are read. Defaults are
    smaller than the code's, for small samples.
    """

    epochs: Steps = 10  # of the server, each round; 200 in all in the code
    batch_size: Several = 64  # samples an epoch makes, and of the student's batches; 128 in the code
    generator_steps: Steps = 30  # of each epoch
    generator_lr: Positive = 1e-3  # of Adam
    generator_width: Steps = 32  # channels of its last hidden map; 64 in the code
    hardness: NonNegative = 1.0  # h: by how much more unsure samples count
    label_weight: NonNegative = 1.0  # b
    adversarial_weight: NonNegative = 1.0  # c
    perturbation: NonNegative = 8 / 255  # epsilon, of normalised samples
    weight_step: NonNegative = 0.01  # mu, of the teachers' weights
    temperature: Positive = 4.0  # T of the student's loss
    lr: Positive = 0.01  # of the student

    paper: ClassVar[str] = "Dai et al., ICLR 2024, arXiv 2402.15070"
    sends: ClassVar[str] = "clients' nets up, once; the student's weights and buffers down"
    needs: ClassVar[Needs] = Needs(labels=True, uses=("server_net",))
    idle: ClassVar[Idle] = {"hardness": (Unless(label_weight=0),)}

    def check_samples(self, node: Node) -> None:
        """Samples of real numbers."""
        check_made("co_boosting", node)

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """A client's net, until it has come."""
        return one_shot.once_schema(server, client)

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Cross-entropy on the client's own net, once."""
        return one_shot.train_once(client, broadcast)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Mapping[int, Knowledge]:
        """Epochs of a generator, of the teachers' weights, and of the student."""
        if teachers := one_shot.take(server, uploads):
            held = {client: server.memory.get(f"{WEIGHT}{client}", 1 / len(teachers)) for client in teachers}
            weights = torch.tensor([float(held[client]) for client in teachers])  # (K,)
            weights = self._distil(server, [*teachers.values()], weights)
            for client, weight in zip(teachers, weights.tolist(), strict=True):
                server.memory[f"{WEIGHT}{client}"] = weight
            server.report({"least_weight": float((weights / weights.mean()).min())}, prefix="client_")
        return one_shot.send_student(server)

    def _distil(self, server: Server, teachers: list[Net], weights: Tensor) -> Tensor:
        """Train the student; what the teachers' weights (K,) come to."""
        student, rng, work = one_shot.student_net(server), server.rng("synthesis"), server.work()
        generator = make_generator(server, noise=NOISE, width=self.generator_width)
        optimizer = server.optimizer("student", student, lr=self.lr)
        pool, labels = ([server.memory.tensor(key)] if key in server.memory else [] for key in (POOL, LABELS))
        answers = [predict(each_of(teachers), as_split(server, held).samples, work) for held in pool]  # (P, K, C)

        def learn(net: Net, batch: Batch, weights: Tensor) -> dict[str, Tensor]:
            taught, inputs = weighed(teachers, weights), batch.inputs
            assert isinstance(inputs, Tensor)
            if self.perturbation:
                inputs = harder(inputs, taught, self.perturbation, rng)
            with torch.no_grad():
                target = taught(inputs)
            return {"distillation": kd_loss(net(inputs), target, temperature=self.temperature)}

        reports: list[dict[str, float]] = []
        first = int(server.memory.get(EPOCHS, 0))
        for epoch in range(first, first + self.epochs):
            now = torch.randint(server.classes, (self.batch_size,), generator=rng)
            taught = weighed(teachers, weights.to(server.device))
            made, wanted = self._make(server, generator, taught, student, now.to(server.device), rng)
            if pool:
                step = self.weight_step * 0.99**epoch
                weights = reweighed(weights, torch.cat(answers), torch.cat(labels), step)
            pool.append(made)
            labels.append(now)
            data = as_split(server, torch.cat(pool))
            answers.append(predict(each_of(teachers), as_split(server, made).samples, work))
            draws = data.draws(epochs=1, batch_size=self.batch_size, rng=rng)
            given = (weights.to(server.device),)
            reports.append(wanted | fit(student, data, learn, given=given, optimizer=optimizer, draws=draws))
        server.memory.update({POOL: torch.cat(pool), LABELS: torch.cat(labels), EPOCHS: first + self.epochs})
        server.report(
            {name: sum(each[name] for each in reports) / self.epochs for name in reports[0] if name != "loss"}
        )
        return weights

    def _make(
        self,
        server: Server,
        generator: Generator,
        taught: Callable[[Tensor], Tensor],
        student: Net,
        labels: Tensor,
        rng: torch.Generator,
    ) -> tuple[Tensor, dict[str, float]]:
        """A batch of samples (B, ...), and the parts of its loss."""
        student.eval().requires_grad_(False)

        def wanted(samples: Tensor) -> dict[str, Tensor]:
            logits = taught(samples)  # (B, C)
            parts = {"label": self.label_weight * hard_label_loss(logits, labels, hardness=self.hardness)}
            if self.adversarial_weight:
                apart = disagreement(student(samples), logits, temperature=SOUGHT_AT)
                parts["adversarial"] = -self.adversarial_weight * apart
            return parts

        steps, lr = self.generator_steps, self.generator_lr
        made, parts = synthesise(server, generator, wanted, size=len(labels), steps=steps, lr=lr, rng=rng)
        student.requires_grad_(True)
        return made, parts

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The student, at the server and at clients."""
        return one_shot.student_predictors(node, broadcast)


# ---- teachers and what they count for


def each_of(teachers: list[Net]) -> Callable[[Tensor], Tensor]:
    """The function of samples that gives what every teacher says of them, (B, K, C) float32."""
    return lambda samples: torch.stack([teacher(samples) for teacher in teachers], 1).float()


def weighed(teachers: list[Net], weights: Tensor) -> Callable[[Tensor], Tensor]:
    """The function of samples that gives the teachers' mean logits (B, C), weighted by (K,), whatever their sum."""
    return lambda samples: mixed(each_of(teachers)(samples), weights)


def mixed(answers: Tensor, weights: Tensor) -> Tensor:
    """The mean (B, C) of logits (B, K, C), weighted by (K,) >= 0 that need not sum to one.

    >>> mixed(torch.tensor([[[4.0, 0.0], [0.0, 8.0]]]), torch.tensor([0.3, 0.1]))
    tensor([[3., 2.]])
    """
    return (answers * (weights / weights.sum())[:, None]).sum(1)


def reweighed(weights: Tensor, answers: Tensor, labels: Tensor, step: float) -> Tensor:
    """Weights (K,) after a step against the sign of the gradient of the cross-entropy, within 0..1.

    Args:
        weights: of K teachers; they stay as they are where none would be left.
        answers: (P, K, C) their logits.
        labels: (P,) the classes that the samples were made for.
        step: how far.

    >>> answers = torch.tensor([[[2.0, 0.0], [0.0, 2.0]]])  # the first teacher is right
    >>> reweighed(torch.tensor([0.5, 0.5]), answers, torch.tensor([0]), 0.125)
    tensor([0.6250, 0.3750])
    """
    weights = weights.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(F.cross_entropy(mixed(answers.to(weights.device), weights), labels), weights)
    moved = (weights.detach() - step * gradient.sign()).clamp(0, 1)
    return moved if bool(moved.any()) else weights.detach()


# ---- hard samples


def hard_label_loss(logits: Tensor, labels: Tensor, *, hardness: float) -> Tensor:
    """Cross-entropy to which a sample counts the more the less sure its label is: mean of (1 - p_y)^hardness CE.

    The factor is a constant; with hardness 0 it is plain cross-entropy.

    >>> logits = torch.tensor([[0.0, 3.0]]).log1p()  # 1/5 and 4/5
    >>> round(hard_label_loss(logits, torch.tensor([1]), hardness=1.0).item(), 4)  # 1/5 of 0.2231
    0.0446
    """
    losses = F.cross_entropy(at_least_float32(logits), labels, reduction="none")  # (B,)
    return ((1 - (-losses.detach()).exp()).clamp_min(0) ** hardness * losses).mean()


def harder(samples: Tensor, taught: Callable[[Tensor], Tensor], epsilon: float, rng: torch.Generator) -> Tensor:
    """Samples (B, ...), each number moved by epsilon, in a direction that changes the answer at random."""
    with torch.enable_grad():
        samples = samples.detach().requires_grad_()
        probabilities = (taught(samples) / PERTURBED_AT).softmax(1)  # (B, C)
        direction = torch.rand(probabilities.shape, generator=rng).mul(2).sub(1).to(samples.device)
        (slope,) = torch.autograd.grad((direction * probabilities).sum(), samples)
    return samples.detach() + epsilon * slope.sign()
