"""DOSFL: clients send some made samples, once, and a net that learns these knows most of what theirs would teach."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from fedkd import (
    Batch,
    Classifier,
    Client,
    InputError,
    Knowledge,
    Needs,
    Node,
    NonNegative,
    Notice,
    Positive,
    Server,
    Split,
    Strategy,
    TensorSpec,
    fit,
)
from fedkd.base.inputs import Inputs
from fedkd.experiment.algorithm.conditions import Always, Idle, Unless
from fedkd.experiment.algorithm.step import make_optimizer
from fedkd.experiment.algorithm.train import Draw
from fedkd.methods import one_shot
from fedkd.methods.synthesis import check_made
from fedkd.nets import Net, load

Count = Annotated[int, Field(ge=1)]
#: In a client's memory: what it made, until it has come.
RECIPE = "recipe/"
#: Of an upload: samples, their soft labels, and how far the net steps on each batch of them.
SAMPLES, LABELS, STEPS = "samples", "labels", "steps"
SPACES = {SAMPLES: "samples", LABELS: "probabilities", STEPS: "samples"}
UNUSED = ("train.lr", "train.optimizer", "train.momentum", "train.nesterov", "train.weight_decay", "train.schedule")
ADAM = Always("dosfl learns samples alone, by Adam at strategy.sample_lr", harmless=True)
#: Standard deviation of the noise on the mean sample of a class, where made samples start.
START_NOISE = 0.5


@final
@dataclass(frozen=True)
class DOSFL(Strategy):
    """A client distils its samples into a few steps: made samples, soft labels, step sizes. The server takes all steps.

    Paper: Zhou, Pu, Ma, Li and Wu, "Distilled One-Shot Federated Learning", 2020, arXiv 2009.07999.
    What travels: S steps of B made samples up, 4 S (B (|x| + C) + 1) bytes, in the round in which a client is first
    asked; |θ| elements down in each round but the first. The samples are made of the client's, and anybody can look at
    them: [privacy] refuses them.
    From the initial weights θ_0 that all share, S steps and the loss that is descended, by samples x, labels y and a:
        θ_s = θ_{s-1} - a_s gradient of CE(θ_{s-1}(x_s), softmax(y_s)),   CE(θ_S(real batch), its labels)
    by Adam, with train.batch_size real samples at a time for train.epochs; its gradient goes back through all S steps,
    whose graphs are in memory together. The server
    takes step 1 of all clients, one after the other, then step 2 of all, and so on, from θ_0: made samples are
    worth nothing from another start. Later rounds show the net, and take steps of clients that were away, from θ_0
    again. A client whose steps alone lead to no number is left out.
    Of K clients' steps each goes a_s / K far, so that all together go as far as one client's, which learned how far
    S steps must go: at their full length, as the paper seems to have it, the net overshot on digits.
    So that the server's steps are the client's, nets are in eval mode for all of this: no dropout, and BatchNorm layers
    scale by the statistics that they start with, so normalise nothing. Nets must be equal, and have second derivatives:
    parts without one are refused, attention is computed without its fused kernels. Samples must be real numbers.
    Formulas are from memory, as no official code is known; so is that the start is drawn anew for each real batch,
    θ_0 + noise (soft reset), that steps are left out at random, both so that steps bear those of others between them,
    and that the server mixes steps as it does. Labels start as those of real samples drawn at random, times
    ``certainty``, samples as the client's mean of their class, with noise: where training is short they stay near, and
    the mean of one sample is that sample. From noise alone nets with convolutions hardly learned.
    """

    steps: Count = 5  # S
    batch_size: Count = 10  # B, samples made for a step
    sample_lr: Positive = 0.05  # of Adam, for samples, labels and step sizes
    step_size: Positive = 1.0  # a_s before it is learned
    certainty: Positive = 3.0  # of labels before they are learned: by how much the logit of their class is larger
    start_noise: NonNegative = 0.1  # standard deviation of the noise on θ_0, in that of each tensor; 0 = none
    left_out: Annotated[float, Field(ge=0, lt=1)] = 0.3  # chance of a step, for each real batch, not to be taken

    paper: ClassVar[str] = "Zhou et al., 2020, arXiv 2009.07999"
    sends: ClassVar[str] = "made samples, soft labels and step sizes up, once; weights and buffers down"
    needs: ClassVar[Needs] = Needs(labels=True, equal_nets=True)
    idle: ClassVar[Idle] = {"left_out": (Unless(steps=1),), **dict.fromkeys(UNUSED, (ADAM,))}

    def check_samples(self, node: Node) -> None:
        """Samples of real numbers, and a net that learns through its own steps."""
        check_made("dosfl", node)
        recipe = Recipe(torch.zeros(1, 2, *shape_of(node)), torch.zeros(1, 2, node.classes), 0.1).to(node.device)
        net = start_net(node)
        with twice_differentiable(net.architecture):
            after = recipe.unrolled(net, trained_weights(net), [True])
            F.cross_entropy(logits_with(net, after, recipe.samples[0].detach()), recipe.labels[0].softmax(1)).backward()

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """Samples, labels and step sizes, until they have come."""
        if client in one_shot.arrived(server):
            return {}
        batches = (self.steps, self.batch_size)
        return {
            SAMPLES: TensorSpec((*batches, *shape_of(server)), torch.float32, "samples"),
            LABELS: TensorSpec((*batches, server.classes), torch.float32, "probabilities"),
            STEPS: TensorSpec((self.steps,), torch.float32, "samples"),
        }

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Samples, labels and step sizes are learned when the client is first asked, and uploaded until they arrive."""
        data = client.train.labelled()
        if broadcast.header.get(one_shot.ARRIVED):
            client.memory.store(RECIPE, {})
            losses = one_shot.measured(one_shot.student_net(client, broadcast), data)
            return Knowledge(weight=len(data), metrics=losses)
        net, made = start_net(client), client.memory.under(RECIPE)
        if made:
            losses = one_shot.measured(stepped_through(client, [made]), data)
        else:
            recipe, losses = self._learn(client, net)
            client.memory.store(RECIPE, made := recipe.told())
        return Knowledge(made, SPACES, weight=len(data), metrics=losses)

    def _learn(self, client: Client, net: Net) -> tuple[Recipe, dict[str, float]]:
        """What steps a net from the common start to one that knows the client's samples, and the loss on the way."""
        data, rng = client.train.labelled(), client.rng("recipe")
        shape = (self.steps, self.batch_size)
        drawn = torch.randint(len(data), shape, generator=rng)
        classes = data.samples.labels[data.samples.indices[drawn]]  # (S, B)
        labels = F.one_hot(classes, client.classes).float() * self.certainty
        noise = START_NOISE * torch.randn(*shape, *shape_of(client), generator=rng)
        recipe = Recipe(class_means(data, client.classes)[classes] + noise, labels, self.step_size).to(client.device)

        def loss(recipe: Recipe, batch: Batch, net: Net, rng: torch.Generator) -> dict[str, Tensor]:
            start = {name: self._noisy(held, rng) for name, held in trained_weights(net).items()}
            after = recipe.unrolled(net, start, steps_taken(self.steps, self.left_out, rng))
            return {"cross_entropy": batch.cross_entropy(logits_with(net, after, batch.inputs))}

        optimizer = make_optimizer(recipe, client.work(), kind="adam", lr=self.sample_lr, weight_decay=0.0)
        with twice_differentiable(net.architecture):
            return recipe, fit(recipe, data, loss, given=(net, rng), optimizer=optimizer)

    def _noisy(self, weights: Tensor, rng: torch.Generator) -> Tensor:
        if not self.start_noise or weights.numel() < 2:
            return weights
        noise = torch.randn(weights.shape, generator=rng).to(weights)
        return (weights + self.start_noise * weights.std() * noise).detach().requires_grad_()

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Mapping[int, Knowledge]:
        """All steps that have come, from the start."""
        one_shot.keep(server, uploads)
        if any(upload.tensors for upload in uploads.values()):
            stepped_through(server, [*one_shot.arrived(server).values()])
        return one_shot.send_student(server)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The net that took all steps, at the server and at clients; before it, the start."""
        return one_shot.student_predictors(node, broadcast)


class Recipe(nn.Module):
    """What a client learns: samples (S, B, ...), logits of their labels (S, B, C), how far each step goes (S,)."""

    def __init__(self, samples: Tensor, labels: Tensor, step_size: float) -> None:
        super().__init__()
        self.samples, self.labels = nn.Parameter(samples), nn.Parameter(labels)
        raw = torch.full((len(samples),), step_size, dtype=samples.dtype).expm1().log()  # softplus of it is the size
        self.raw_steps = nn.Parameter(raw)

    def unrolled(self, net: nn.Module, start: Mapping[str, Tensor], taken: Sequence[bool]) -> Mapping[str, Tensor]:
        """A net's weights after all steps that are taken; their gradient reaches all that is learned."""
        weights, sizes = start, F.softplus(self.raw_steps)
        for step in (number for number, takes in enumerate(taken) if takes):
            logits = logits_with(net, weights, self.samples[step])
            loss = F.cross_entropy(logits.to(self.labels.dtype), self.labels[step].softmax(1))
            weights = stepped(weights, loss, sizes[step])
        return weights

    @torch.no_grad()
    def told(self) -> dict[str, Tensor]:
        """What is sent of it, on the CPU."""
        made = {SAMPLES: self.samples, LABELS: self.labels.softmax(2), STEPS: F.softplus(self.raw_steps)}
        return {name: tensor.detach().float().cpu() for name, tensor in made.items()}


def steps_taken(steps: int, left_out: float, rng: torch.Generator) -> list[bool]:
    """Which steps are taken, each but with a chance; one at least, or there would be nothing to learn."""
    drawn = torch.rand(steps, generator=rng)
    return [bool(each) for each in (drawn >= left_out) | (drawn == drawn.max())]


def class_means(data: Split, classes: int) -> Tensor:
    """The mean sample of each class as nets take them, (C, ...) on the CPU; zeros for a class without one."""
    batch = data.batch(Draw(torch.arange(len(data)), 0))
    assert isinstance(batch.inputs, Tensor)
    inputs, labels = batch.inputs.float().cpu(), batch.labels.cpu()
    sums = torch.zeros(classes, *inputs.shape[1:]).index_add_(0, labels, inputs)
    counts = torch.bincount(labels, minlength=classes).clamp(min=1)
    return sums / counts.view(-1, *[1] * (inputs.dim() - 1))


def shape_of(node: Node) -> tuple[int, ...]:
    """The shape of a sample, (...)."""
    shape = node.federation.source.shape
    assert isinstance(shape, tuple)  # as check_made saw to
    return shape


def start_net(node: Node) -> Net:
    """The net that all start from, in eval mode."""
    return node.net("start", architecture=node.experiment.architectures[0]).eval()


@torch.enable_grad()
def replayed(net: nn.Module, recipes: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """A net's weights after step 1 of all K recipes, in their order, step 2 of all, and so on; each goes a / K far."""
    weights: Mapping[str, Tensor] = trained_weights(net)
    device = next(net.parameters()).device
    for step in range(len(recipes[0][STEPS]) if recipes else 0):
        for recipe in recipes:
            start = {name: held.detach().requires_grad_() for name, held in weights.items()}
            logits = logits_with(net, start, recipe[SAMPLES][step].to(device))
            loss = F.cross_entropy(logits.float(), recipe[LABELS][step].to(device))
            weights = stepped(start, loss, recipe[STEPS][step].to(device) / len(recipes))
    return {name: held.detach() for name, held in weights.items()}


def are_numbers(weights: Mapping[str, Tensor]) -> bool:
    """Whether all are finite, and none is huge."""
    return all(bool((held.abs() <= 1e6).all()) for held in weights.values())


def stepped_through(node: Node, recipes: list[Mapping[str, Tensor]]) -> Net:
    """The net that goes through all steps of these clients, but of those who alone lead it to no numbers."""
    net, after = start_net(node), one_shot.student_net(node)
    weights = replayed(net, recipes)
    if not are_numbers(weights):
        recipes = [recipe for recipe in recipes if are_numbers(replayed(net, [recipe]))]
        weights = replayed(net, recipes)
    if are_numbers(weights):
        load(after, {**net.state_dict(), **weights})
    else:
        text = f"{node.work().where}: the steps of {len(recipes)} clients lead to no numbers, and none is taken"
        warnings.warn(f"{text}: lower strategy.step_size, or raise strategy.left_out", Notice, stacklevel=2)
    return after


def trained_weights(net: nn.Module) -> dict[str, Tensor]:
    """Copies of what of a net is trained, by name: a start whose gradient ends there."""
    return {name: held.detach().clone().requires_grad_() for name, held in net.named_parameters() if held.requires_grad}


def logits_with(net: nn.Module, weights: Mapping[str, Tensor], inputs: Inputs) -> Tensor:
    """Logits (B, C) of a net that has these weights in place of its own, which stay."""
    logits: Tensor = functional_call(net, dict(weights), (inputs,))
    return logits


def stepped(weights: Mapping[str, Tensor], loss: Tensor, size: float | Tensor) -> dict[str, Tensor]:
    """Weights after a step down the gradient of a loss; their own gradient goes back through that step.

    >>> weights, target = {"w": torch.tensor([2.0], requires_grad=True)}, torch.tensor([1.0], requires_grad=True)
    >>> after = stepped(weights, (weights["w"] - target).square().sum() / 2, 0.25)["w"]
    >>> after.item(), torch.autograd.grad(after.sum(), target)[0].item()  # 2 - (2 - 1) / 4
    (1.75, 0.25)
    """
    gradients = torch.autograd.grad(loss, [*weights.values()], create_graph=True, allow_unused=True)
    return {
        name: held if gradient is None else held - size * gradient
        for (name, held), gradient in zip(weights.items(), gradients, strict=True)
    }


@contextmanager
def twice_differentiable(architecture: str) -> Iterator[None]:
    """In the block attention is computed as formulas have it, since its fused kernels have no second derivative.

    Raises:
        InputError: something else of the net has none.
    """
    with sdpa_kernel(SDPBackend.MATH):
        try:
            yield
        except RuntimeError as error:
            lines = ("not implemented", "does not require grad", "once_differentiable", "appears to not have been used")
            if not any(line in str(error) for line in lines):
                raise
            raise InputError(
                f"nets: {architecture!r} cannot learn through its own steps ({str(error).splitlines()[0]}): a part "
                "of it has no second derivative; take another net, or write that part in operations that have one"
            ) from error
