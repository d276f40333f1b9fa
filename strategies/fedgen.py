"""FedGen: FedAvg whose clients also learn from features that a generator at the server makes of the classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call, vmap

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
    classifier,
    fit,
    schema_of,
)
from fedkd.aggregate import stack, weighted_mean
from fedkd.experiment.algorithm.conditions import Idle, Unless
from fedkd.losses import cross_entropy_loss, diversity_loss, kd_loss
from fedkd.methods.frozen_nets import put_under, tensors_under
from fedkd.methods.made_rows import rows_split
from fedkd.methods.public_distillation import train_on_labels
from fedkd.methods.shared_classifier import check_classifiers
from fedkd.nets import FeatureGenerator, Net, load

Count = Annotated[int, Field(ge=1)]
#: How many features of each class a client has made in a round.
MADE = 64
#: How the names of the generator's tensors begin.
GENERATOR = "generator/"
#: In the server's memory: how many samples of each class each client said that it has, (clients, C) int32.
COUNTS = "fedgen/counts"


@final
@dataclass(frozen=True)
class FedGen(Strategy):
    """Weights are averaged; a generator learns what all clients' classifiers take for a class, and clients learn of it.

    Paper: Zhu et al., "Data-Free Knowledge Distillation for Heterogeneous Federated Learning", ICML 2021, arXiv
    2105.10056.
    What travels: weights and buffers, |θ| elements, and 4 C bytes of counts up; down as much, and beside it the
    generator with its buffers, |G| elements. In the first round only the weights go down.
        client: CE + beta_t KL(sg softmax(h(G(y))) || softmax(h(f(x)))) + alpha_t CE(h(G(y')), y')
        server: sum over k of mean(w_k(y) CE(h_k(G(y)), y)) + eta diversity,   w_k(y) = n_k^y / sum over j of n_j^y
        diversity = exp(-mean over pairs of |noise_i - noise_j|² |G_i - G_j|)
    G makes features of noise and a class; h, a net's last layer, reads them. Labels y' and those at the server are
    drawn in proportion to counts, as in the paper: of all who ever took part, and at the server of the round's clients.
    alpha_t = alpha decay^(t - 1), at least 1e-4 alpha, and beta_t likewise. Before the mean is taken G makes steps of
    Adam on batches of train.batch_size, 2 at least, weight decay 0.01, its rate falling by 2 % a round; it goes on from
    round to round. The formulas are those of the authors' code. Its noise is uniform on [0, 1), where the paper says
    Gaussian; that the paper's text has no KL term is from memory.
    Deviations: that code starts its counts anew in each round, from 1, and draws labels uniformly among those that
    somebody has. It makes new features for each batch; here a client makes 64 of each class a round, and its samples
    take turns among them, those for y' as many as the batch has samples. It leaves the generated terms away after 20
    local epochs, which at its defaults there never are; its weights fall to 1e-4 itself; and it does not average
    buffers. alpha = beta = 0 is FedAvg. Where samples are few, 10 can make a run chaotic: try 1 to 3.
    """

    alpha: NonNegative = 10.0  # weight of cross-entropy on made features, in round 1
    beta: NonNegative = 10.0  # weight of the KL term, likewise
    decay: Annotated[float, Field(gt=0, le=1)] = 0.98  # of both weights, a round
    steps: Count = 50  # of the generator, each round
    generator_lr: Positive = 3e-4  # of Adam
    diversity_weight: NonNegative = 1.0  # eta
    noise: Count = 32  # random numbers to a feature
    hidden: Count = 256  # width of the generator

    paper: ClassVar[str] = "Zhu et al., ICML 2021, arXiv 2105.10056"
    sends: ClassVar[str] = "weights, buffers and counts of labels both ways, and a generator of features down"
    needs: ClassVar[Needs] = Needs(labels=True, equal_nets=True)
    idle: ClassVar[Idle] = dict.fromkeys(
        ("decay", "steps", "generator_lr", "diversity_weight", "noise", "hidden"), (Unless(alpha=0, beta=0),)
    )

    def check_samples(self, node: Node) -> None:
        """Refuse nets of which no last layer reads features."""
        check_classifiers(node)

    def first_broadcast(self, server: Server) -> Knowledge:
        """The shared initial weights; no generator yet."""
        return Knowledge.of("weights", server.net().state_dict())

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """Weights and buffers, and how many samples of each class there are."""
        return {
            **schema_of(self.first_broadcast(server)),
            "counts": TensorSpec((server.classes,), torch.int32, "counts"),
        }

    def check_upload(self, server: Server, upload: Knowledge) -> None:
        """As many samples as the upload weighs."""
        if (samples := int(upload.tensors["counts"].sum())) != upload.weight:
            raise ValueError(f"its classes have {samples} samples, its weight is {upload.weight:g}")

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs from the global weights, on the client's samples and on made features."""
        net, data = client.net(weights=weights_of(broadcast).tensors), client.train.labelled()
        share = max(1e-4, self.decay ** (client.round - 1))

        def loss(net: Net, batch: Batch, made: Tensor, drawn: Tensor) -> dict[str, Tensor]:
            places = batch.positions.to(made.device)  # (B,)
            others = drawn[places % len(drawn)]  # (B,)
            with torch.no_grad():
                taught = net.head("classifier", made[batch.labels, places % MADE])  # (B, C)
            logits = net(batch.inputs)  # (B, C)
            said = net.head("classifier", made[others, (places + MADE // 2) % MADE])  # (B, C)
            return {
                "cross_entropy": batch.cross_entropy(logits),
                "distillation": self.beta * share * kd_loss(logits, taught, temperature=1.0),
                "generated_cross_entropy": self.alpha * share * cross_entropy_loss(said, others),
            }

        given = self._made(client, broadcast, net)
        losses = fit(net, data, loss, given=given) if given else train_on_labels(net, data)
        counts = data.samples.label_counts().int()
        upload = Knowledge.of("weights", net.state_dict(), weight=len(data), metrics=losses)
        return upload.with_tensors("counts", {"counts": counts})

    def _made(self, client: Client, broadcast: Knowledge, net: Net) -> tuple[Tensor, ...]:
        """Features of each class, (C, MADE, D), and labels drawn by all clients' counts; nothing in the first round."""
        if "counts" not in broadcast.tensors:
            return ()
        generator = self._generator(client, net).eval()
        load(generator, tensors_under(broadcast, GENERATOR))
        noise = torch.rand(client.classes * MADE, self.noise, generator=client.rng("noise")).to(client.device)
        with torch.no_grad():
            made = generator(noise, torch.arange(client.classes, device=client.device).repeat_interleave(MADE))
        drawn = draw_labels(broadcast.tensors["counts"], MADE * client.classes, client.rng("labels"))
        return made.unflatten(0, (client.classes, MADE)), drawn.to(client.device)

    def _generator(self, node: Node, net: Net) -> FeatureGenerator:
        def build() -> FeatureGenerator:
            return FeatureGenerator(node.classes, net.feature_width, noise=self.noise, hidden=self.hidden)

        return node.module("generator", build, keep=isinstance(node, Server))

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The generator learns from the clients' last layers; then the mean of weights, by sample counts."""
        counts, weights = stack(uploads, "counts"), {k: weights_of(upload) for k, upload in uploads.items()}  # (K, C)
        if COUNTS not in server.memory:
            server.memory[COUNTS] = torch.zeros(len(server.clients), server.classes, dtype=torch.int32)
        server.memory[COUNTS] = server.memory.tensor(COUNTS).index_copy(0, torch.tensor(sorted(uploads)), counts)
        generator = self._generator(server, server.net())
        server.report(self._train_generator(server, generator, weights, counts.long()))
        everybody = server.memory.tensor(COUNTS).sum(0).int()
        answer = weighted_mean(weights).with_tensors("counts", {"counts": everybody})
        return answer.with_tensors("weights", put_under(GENERATOR, generator.state_dict()))

    def _train_generator(
        self, server: Server, generator: FeatureGenerator, weights: Mapping[int, Knowledge], counts: Tensor
    ) -> dict[str, float]:
        head = LastLayers(server.net(), weights)
        shares = (counts / counts.sum(0).clamp_min(1)).to(server.device)  # (K, C)

        def loss(generator: FeatureGenerator, batch: Batch) -> dict[str, Tensor]:
            assert isinstance(batch.inputs, Tensor)
            made = generator(batch.inputs, batch.labels)  # (B, D)
            return {
                "teachers": weighted_cross_entropy(head(made), batch.labels, shares[:, batch.labels]),
                "diversity": self.diversity_weight * diversity_loss(batch.inputs, made),
            }

        size = max(2, server.experiment.train.batch_size)  # batch statistics of one say nothing
        samples = self.steps * size * server.experiment.train.accumulate
        noise = torch.rand(samples, self.noise, generator=server.rng("noise"))
        split = rows_split(server, noise, draw_labels(counts.sum(0), samples, server.rng("labels")))
        lr = self.generator_lr * 0.98 ** (server.round - 1)
        adam = server.optimizer("generator", generator, kind="adam", lr=lr, weight_decay=0.01)
        return fit(generator, split, loss, optimizer=adam, epochs=1, batch_size=size)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The global net, at the server and at every client."""
        return {"global": classifier(node.net("broadcast", weights=weights_of(broadcast).tensors))}


def weights_of(message: Knowledge) -> Knowledge:
    """The net in a message, without what goes beside it."""
    held = {name: t for name, t in message.tensors.items() if name != "counts" and not name.startswith(GENERATOR)}
    return Knowledge.of("weights", held, weight=message.weight)


def draw_labels(counts: Tensor, number: int, rng: torch.Generator) -> Tensor:
    """So many class ids (number,) int64, each class as often as its share of the counts (C,)."""
    return torch.multinomial(counts.double(), number, replacement=True, generator=rng)


# ---- what clients say of a feature


@final
class LastLayers(nn.Module):
    """Features (B, D) -> what each client's last layer says of them, (K, B, C), clients in order of their id."""

    def __init__(self, net: Net, weights: Mapping[int, Knowledge]) -> None:
        super().__init__()
        self.top = _Top(net).eval()
        place = next(name for name, part in self.top.named_modules() if part is net.classifier)
        names = [f"{place}.{name}" for name in net.classifier.state_dict()]
        self.layers = {name: stack(weights, name.removeprefix("net.")).to(self.top.where) for name in names}

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""

        def of_one(layer: dict[str, Tensor]) -> Tensor:
            said: Tensor = functional_call(self.top, layer, (features,))
            return said

        said: Tensor = vmap(of_one)(self.layers)
        return said


@final
class _Top(nn.Module):
    """A net above its features."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    @property
    def where(self) -> torch.device:
        return next(self.net.parameters()).device

    def forward(self, features: Tensor) -> Tensor:
        return self.net.head("classifier", features)


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """The sum over clients of the mean over samples of weight times cross-entropy. Scalar.

    Args:
        logits: (K, B, C).
        labels: (B,) int64.
        weights: (K, B).

    >>> said = torch.tensor([[[0.0, 0.0]], [[0.0, 3.0]]]).log1p()  # (1/2, 1/2) and (1/5, 4/5)
    >>> round(weighted_cross_entropy(said, torch.tensor([1]), torch.tensor([[0.25], [0.75]])).item(), 4)
    0.3406
    """
    picked = -logits.float().log_softmax(2).gather(2, labels.expand(len(logits), -1)[..., None]).squeeze(2)  # (K, B)
    return (weights * picked).sum(0).mean()
