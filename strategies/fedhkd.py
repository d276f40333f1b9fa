"""FedHKD: FedAvg whose clients also tell the mean feature and mean prediction of each class, and learn from both."""

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
    InputError,
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
from fedkd.aggregate import masked_mean, stack, weighted_mean
from fedkd.experiment.algorithm.conditions import Idle, Unless
from fedkd.knowledge.privacy import clip_and_noise
from fedkd.losses import prototype_loss
from fedkd.methods.class_means import ClassMeans
from fedkd.nets import Net

#: Names in a message that no net has: by class mean features, mean predictions, and of how many samples they are.
FEATURES, PREDICTIONS, COUNTS = "hyper/features", "hyper/predictions", "hyper/counts"


@final
@dataclass(frozen=True)
class FedHKD(Strategy):
    """Features are drawn to their class's mean over all clients, of which the classifier says what clients' nets say.

    Paper: Chen et al., "The Best of Both Worlds: Accurate Global and Personalized Models through Federated Learning
    with Data-Free Hyper-Knowledge Distillation", ICLR 2023, arXiv 2301.08968.
    What travels: |θ| elements and 4 C D + 4 C² + 4 C bytes, down and up, C classes, D the width of features: weights
    and buffers, and the hyper-knowledge: mean features H and mean predictions Q by class, both of the trained net in
    eval mode (one more pass over the samples), and of how many samples.
        cross-entropy + classifier_weight mean_c KL(Q_c || softmax(classifier(H_c) / T)) + feature_weight MSE(f(x), H_y)
    The server averages H and Q by sample counts of the class, weights by samples. A class that no participant holds is
    left out of both terms, as are all in the first round. With both weights 0 it is FedAvg. ``client_accuracy`` is that
    of the global net, ``client_own_accuracy`` that of the net that the client trained last: the paper reports both.
    Deviations: in the official code the server never averages hyper-knowledge, clients are taught that of the last
    client that told of a class; its KL is a mean over C² elements, C times smaller; samples without H enter the MSE as
    zeros; all clients count the same. Its loss is followed here; a benchmark that follows the paper has distances for
    KL and MSE, and leaves out classes of which a client has few samples: ``least_share``, from memory also in the
    paper. Its second clipping of gradients, to a norm of 1.1, is train.clip.
    Noise: the code adds one vector of deviation 2 to the mean features of all classes, however large these are, and the
    net went astray (issue 3 of its repository). Here it is off, and drawn for each class if it is on: features are cut
    to a norm of ``clip`` each, and the mean of n gets N(0, (noise clip / n)²) an element; one sample moves it by at
    most 2 clip / n. That protects mean features alone: weights, predictions and counts are sent as they are, so no
    epsilon is told, and [privacy] refuses it.
    """

    classifier_weight: NonNegative = 0.05  # lambda, of the classifier on mean features
    feature_weight: NonNegative = 0.05  # gamma, of features and their class's mean
    temperature: Positive = 0.5  # T, of all predictions; sharper below 1
    least_share: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of a client's samples, for a class to be told of
    clip: NonNegative = 0.0  # the largest norm of a feature that enters a mean; 0 = off
    noise: NonNegative = 0.0  # of mean features, in multiples of clip / n; needs clip

    paper: ClassVar[str] = "Chen et al., ICLR 2023, arXiv 2301.08968"
    sends: ClassVar[str] = "weights and buffers, mean features and predictions by class, both ways"
    needs: ClassVar[Needs] = Needs(labels=True, equal_nets=True)
    idle: ClassVar[Idle] = {
        "temperature": (Unless(classifier_weight=0),),
        **dict.fromkeys(("least_share", "clip", "noise"), (Unless(classifier_weight=0, feature_weight=0),)),
    }

    def check(self, experiment: Settings) -> None:
        """How large noise must be is known of features that are clipped."""
        self.needs.check(type(self).__name__, experiment)
        if self.noise and not self.clip:
            raise InputError(f"strategy.noise = {self.noise:g} is in multiples of strategy.clip: set that above 0")

    def first_broadcast(self, server: Server) -> Knowledge:
        """The shared initial weights; no hyper-knowledge yet."""
        net, classes = server.net(), server.classes
        rows = torch.zeros(classes, net.feature_width), torch.zeros(classes, classes)
        return packed(Knowledge.of("weights", net.state_dict()), *rows, torch.zeros(classes))

    def check_upload(self, server: Server, upload: Knowledge) -> None:
        """No more samples than it counts for."""
        if (samples := int(upload.tensors[COUNTS].sum())) > upload.weight:
            raise ValueError(f"its classes have {samples} samples, its weight is {upload.weight:g}")

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs from the global weights, then class means of what the net has become, which the client keeps."""
        net, data = client.net(weights=broadcast.in_space("weights").tensors, keep=True), client.train.labelled()
        names = (FEATURES, PREDICTIONS, COUNTS)
        means, said, counts = (broadcast.tensors[name].to(client.device) for name in names)

        def loss(net: Net, batch: Batch, means: Tensor, said: Tensor, known: Tensor) -> dict[str, Tensor]:
            features = net.features(batch.inputs)  # (B, D)
            of_means = net.head("classifier", means)  # (C, C)
            return {
                "cross_entropy": batch.cross_entropy(net.head("classifier", features)),
                "distillation": self.classifier_weight
                * mean_divergence(of_means, said, known, temperature=self.temperature),
                "prototype": self.feature_weight * prototype_loss(features, means, batch.labels, known),
            }

        losses = fit(net, data, loss, given=(means, said, counts > 0))
        weights = Knowledge.of("weights", net.state_dict(), weight=len(data), metrics=losses)
        return packed(weights, *self._told(client, net, data))

    def _told(self, client: Client, net: Net, data: Split) -> tuple[Tensor, Tensor, Tensor]:
        """Mean features (C, D) and predictions (C, C) of a client's samples by class, and of how many, (C,)."""
        net = net.eval()

        def both(inputs: Tensor) -> Tensor:
            features = net.features(inputs)
            said = (net.head("classifier", features).float() / self.temperature).softmax(1)
            return torch.cat([clipped(features.float(), self.clip), said], dim=1)

        rows, classes = predict(both, data.samples, data.work), client.classes  # (n, D + C)
        means = ClassMeans(classes=classes, width=rows.shape[1])
        means.add(rows, data.samples.labels[data.samples.indices])
        counts = means.counts()
        known = counts > self.least_share * len(data) if self.least_share else counts > 0
        values = means.values() * known[:, None]
        features, said = values[:, :-classes], values[:, -classes:]
        if self.noise:
            rng = client.rng("noise of mean features") if client.simulated else None
            features = noised(features, counts, known, scale=self.noise * self.clip, rng=rng)
        return features, said, counts * known

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """Weights averaged by sample counts, what is told of a class by samples of that class."""
        weights = weighted_mean({client: upload.in_space("weights") for client, upload in uploads.items()})
        counts = stack(uploads, COUNTS)  # (K, C)
        features, _ = masked_mean(stack(uploads, FEATURES), counts)
        said, _ = masked_mean(stack(uploads, PREDICTIONS), counts)
        return packed(weights, features, said, counts.sum(0))

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The global net; at a client also its own, as it trained it last."""
        shared = {"global": classifier(node.net("broadcast", weights=broadcast.in_space("weights").tensors))}
        return shared | ({"own": classifier(node.net(keep=True))} if isinstance(node, Client) else {})


def packed(weights: Knowledge, features: Tensor, predictions: Tensor, counts: Tensor) -> Knowledge:
    """Weights, and what is told of each class: (C, D), (C, C) and of how many samples, (C,), 0 for nothing."""
    told = weights.with_tensors("embedding", {FEATURES: features})
    return told.with_tensors("probabilities", {PREDICTIONS: predictions}).with_tensors("counts", {COUNTS: counts.int()})


def mean_divergence(logits: Tensor, targets: Tensor, known: Tensor, *, temperature: float) -> Tensor:
    """The mean over known rows of KL(target || softmax(logits / T)); 0 where none is known.

    Args:
        logits: (C, C).
        targets: (C, C) probabilities; a constant here.
        known: (C,) bool.
        temperature: > 0; the term is not multiplied by its square.

    >>> logits, known = torch.tensor([[0.0, 3.0], [7.0, 0.0]]).log1p(), torch.tensor([True, False])
    >>> targets = torch.tensor([[0.5, 0.5], [0.0, 0.0]])
    >>> round(mean_divergence(logits, targets, known, temperature=1.0).item(), 4)  # log(5/2) / 2 + log(5/8) / 2
    0.2231
    """
    said = F.log_softmax(logits.float() / temperature, dim=1)
    divergences = F.kl_div(said, targets.detach(), reduction="none").sum(1)  # (C,)
    return (divergences * known).sum() / known.sum().clamp_min(1)


def clipped(features: Tensor, most: float) -> Tensor:
    """Rows (B, D), those with a norm above ``most`` cut to it; as they are where that is 0."""
    return features / (features.norm(dim=1, keepdim=True) / most).clamp_min(1) if most else features


def noised(means: Tensor, counts: Tensor, known: Tensor, *, scale: float, rng: torch.Generator | None) -> Tensor:
    """Means (C, D) of known classes with noise of deviation scale / count; the others are as they were.

    Without a generator the noise is the operating system's, which nobody can repeat.
    """
    noise = clip_and_noise(torch.zeros_like(means), clip=scale, noise_multiplier=1.0, rng=rng)  # of zeros: noise alone
    return means + noise * (known / counts.clamp_min(1))[:, None]
