"""FedBE: nets sampled around the clients' nets teach, with these, the mean; the average of its steps goes back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from fedkd import (
    Classifier,
    Client,
    Knowledge,
    Needs,
    Node,
    NonNegative,
    Positive,
    Server,
    Share,
    Strategy,
    TensorSpec,
    broadcast_net,
    classifier,
    load,
)
from fedkd.aggregate import mean, power, weighted_mean
from fedkd.experiment.algorithm.batches import batch_sizes
from fedkd.experiment.algorithm.conditions import Idle, Unless, When
from fedkd.experiment.algorithm.optimizer_state import trainable
from fedkd.losses import soft_cross_entropy
from fedkd.methods.architecture_groups import train_received, weights_schema
from fedkd.methods.public_distillation import distil, predict_public
from fedkd.nets import Net

Count = Annotated[int, Field(ge=0)]
Steps = Annotated[int, Field(ge=1)]
State = Mapping[str, Tensor]


@final
@dataclass(frozen=True)
class FedBE(Strategy):
    """Clients train and return weights; the mean learns, on public samples, what many nets like theirs say together.

    Paper: Chen and Chao, "FedBE: Making Bayesian Model Ensemble Applicable to Federated Learning", ICLR 2021, arXiv
    2009.01974.
    What travels: all weights and buffers, down and up; |θ| elements each, as in FedAvg. Public samples, without labels,
    are the server's alone.
    Teachers are the clients' nets, their mean by sample counts, and ``samples`` more, drawn around them:
        gaussian    θ + |d| (m + scale sqrt(v) e),   e of N(0, 1), for each tensor of weights
                    m and v the mean and variance over clients of (θ_k - θ) / |θ_k - θ|, |d| the mean of |θ_k - θ|
        dirichlet   sum over k of p_k θ_k,   p of a Dirichlet distribution whose parameters are all ``alpha``
    θ is what clients started from. The mean of the teachers' probabilities, sharpened to p^2 / sum p^2, is what a
    student, from the clients' mean, descends the cross-entropy to, by SGD with momentum 0.9; the average of its weights
    every ``average_every`` steps, after ``average_after`` of them, is the next global net.
    On digits it beat FedAvg where nets drift apart, as those with batch statistics do in one long round, and not where
    their mean is better than the teachers together. Drawn around a poor mean ``samples`` nets outvote few clients: try
    0 of them too.
    Deviations from the official code, whose Gaussian is this one (the paper's is over the weights themselves): buffers
    of a sample are the clients' mean, as a variance plus noise may be negative; there they are sampled too. A tensor
    that no client moved stays; there it is NaN. The loss is a mean over samples; there over samples and classes, so 10
    times smaller with ten of them, and NaN where a teacher's probability is 0. BatchNorm's statistics are averaged like
    the student's weights; there gathered anew on the public set. Averages begin after a third of the steps and are
    taken every 5; there after 500 of about 1,600, every 25. lr is 0.001, as its code has it whatever its flag says.
    """

    samples: Count = 10  # nets drawn beside the clients' and their mean
    around: Literal["gaussian", "dirichlet"] = "gaussian"  # what they are drawn from
    scale: NonNegative = 0.1  # of the Gaussian's deviations
    alpha: Positive = 1.0  # of the Dirichlet distribution
    exponent: Positive = 2.0  # of the sharpening; 1 = none
    epochs: Steps = 20  # of the student on the public samples, each round
    batch_size: Steps = 128  # public samples a step
    lr: Positive = 1e-3  # of SGD
    average_after: Share = 1 / 3  # of the steps; 1 = the last net, no average
    average_every: Steps = 5  # steps

    paper: ClassVar[str] = "Chen and Chao, ICLR 2021, arXiv 2009.01974"
    sends: ClassVar[str] = "weights and buffers, both ways"
    needs: ClassVar[Needs] = Needs(labels=True, public=True, equal_nets=True)
    idle: ClassVar[Idle] = {
        "around": (Unless(samples=0),),
        "scale": (Unless(samples=0), When("around", "gaussian")),
        "alpha": (Unless(samples=0), When("around", "dirichlet")),
        "average_every": (Unless(average_after=1),),
    }

    def first_broadcast(self, server: Server) -> Knowledge:
        """The shared initial weights."""
        return Knowledge.of("weights", global_net(server).state_dict())

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """All weights and buffers."""
        return weights_schema(server, client)

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs of cross-entropy, from the global weights."""
        return train_received(client, broadcast)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """Teachers, their sharpened mean, and the average of the student that learns it."""
        student = global_net(server)
        start = {name: tensor.cpu().clone() for name, tensor in student.state_dict().items()}
        weights = {name for name, _ in student.named_parameters()} & start.keys()  # what is frozen does not travel
        answers = self._answers(server, {k: uploads[k].tensors for k in sorted(uploads)})
        if not answers:
            return Knowledge.of("weights", start)
        taken = {client: uploads[client] for client in answers}
        middle = weighted_mean(taken).tensors
        drawn = self._drawn(server, start, middle, [taken[client].tensors for client in taken], weights)
        beside = self._answers(server, dict(enumerate([middle, *drawn])))
        together = mean(torch.stack([*answers.values(), *beside.values()]).softmax(2))  # (P, C)
        targets = power(together, self.exponent)
        server.show_teaching(answers, targets.clamp_min(1e-12).log(), server.public)
        load(student, middle)
        server.report({"distillation": self._distil(server, student, targets)})
        return Knowledge.of("weights", student.state_dict())

    def _answers(self, server: Server, states: Mapping[int, State]) -> dict[int, Tensor]:
        """Public logits (P, C) of every net whose are finite."""
        net, answers = server.net("teacher"), dict[int, Tensor]()
        for key, state in states.items():
            load(net, state)
            logits = predict_public(net, server.public)
            if logits.isfinite().all():
                answers[key] = logits
        return answers

    def _drawn(
        self, server: Server, start: State, middle: State, nets: Sequence[State], weights: set[str]
    ) -> Iterator[State]:
        rng = server.rng("teachers")
        for _ in range(self.samples):
            if self.around == "dirichlet":
                yield mixed(nets, dirichlet(len(nets), self.alpha, rng))
            else:
                own = {
                    name: near(start[name], [net[name] for net in nets], self.scale, rng) for name in sorted(weights)
                }
                yield {**middle, **own}

    def _distil(self, server: Server, student: Net, targets: Tensor) -> float:
        public = server.public
        steps = self.epochs * len(batch_sizes(len(public), self.batch_size))
        average = Average(student, after=int(self.average_after * steps), every=self.average_every)
        sgd = torch.optim.SGD(trainable(student, public.work.where), lr=self.lr, momentum=0.9)
        losses = distil(
            *(student, public, targets, soft_cross_entropy),
            optimizer=sgd,
            epochs=self.epochs,
            batch_size=self.batch_size,
            after_step=average.step,
        )
        load(student, average.state or student.state_dict())
        return losses["distillation"]

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The global net, at the server and at every client."""
        return {"global": classifier(broadcast_net(node, broadcast))}


def global_net(server: Server) -> Net:
    """The net that the server keeps: what it sent last."""
    return server.net("global", keep=True)


# ---- nets around the clients'


def near(start: Tensor, tensors: Sequence[Tensor], scale: float, rng: torch.Generator) -> Tensor:
    """A draw of one tensor of weights from the Gaussian over the clients' steps from ``start``, of their mean length.

    >>> near(torch.zeros(2), [torch.tensor([3.0, 4.0]), torch.tensor([6.0, 8.0])], 0.1, torch.Generator())  # v is 0
    tensor([4.5000, 6.0000])
    """
    steps = torch.stack(list(tensors)) - start  # (K, ...)
    lengths = torch.linalg.vector_norm(steps.flatten(1), dim=1)  # (K,)
    ways = steps / lengths.clamp_min(1e-30).reshape(-1, *[1] * start.dim())
    variance, middle = torch.var_mean(ways, dim=0, correction=0)
    noise = torch.randn(start.shape, generator=rng)
    drawn: Tensor = start + lengths.mean() * (middle + scale * variance.sqrt() * noise)
    return drawn


def mixed(nets: Sequence[State], shares: Tensor) -> State:
    """The mean of nets, buffers too, with these shares (K,)."""
    uploads = {place: Knowledge.of("weights", net) for place, net in enumerate(nets)}
    return weighted_mean(uploads, weights=shares.tolist()).tensors


def dirichlet(parts: int, alpha: float, rng: torch.Generator) -> Tensor:
    """Shares (K,) that sum to one, all equally likely to be large.

    >>> float(dirichlet(5, 1.0, torch.Generator().manual_seed(0)).sum())
    1.0
    """
    drawn = torch._standard_gamma(torch.full((parts,), alpha, dtype=torch.float64), generator=rng)
    return drawn / drawn.sum()


@final
class Average:
    """The mean of a net's weights and buffers over its steps: every so many, after the first ones."""

    def __init__(self, net: Net, *, after: int, every: int) -> None:
        self._net, self._after, self._every = net, after, every
        self._steps = self._taken = 0
        self.state: dict[str, Tensor] = {}  # empty before the first is taken

    def step(self) -> None:
        """Count a step, and take the net as it is now where it is one's turn."""
        self._steps += 1
        if self._steps <= self._after or self._steps % self._every:
            return
        self._taken += 1
        for name, tensor in self._net.state_dict().items():
            if self._taken == 1 or not tensor.is_floating_point():
                self.state[name] = tensor.detach().clone()
            elif not torch.equal(self.state[name], tensor):  # a mask of infinities is not to be taken from itself
                self.state[name].lerp_(tensor.detach(), 1 / self._taken)
