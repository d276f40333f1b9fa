"""Selective-FD: clients answer only about public samples like their own, the server passes on only clear answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from fedkd import (
    Classifier,
    Client,
    InputError,
    Knowledge,
    Needs,
    Node,
    NonNegative,
    Server,
    Settings,
    Split,
    Strategy,
    Table,
    TensorSpec,
    UpTo,
    classifier,
    predict,
)
from fedkd.aggregate import masked_mean, renormalise
from fedkd.experiment.algorithm.conditions import Beyond, Idle, Unless
from fedkd.losses import soft_cross_entropy
from fedkd.methods.public_distillation import distil, predict_public, train_on_labels


@final
@dataclass(frozen=True)
class SelectiveFD(Strategy):
    """Train on own samples, predict the public ones that may be like them; what all said, where clear, is distilled.

    Paper: Shao, Wu and Zhang, "Selective Knowledge Sharing for Privacy-Preserving Federated Distillation without a Good
    Teacher", Nature Communications 2024, arXiv 2304.01731.
    What travels: for each client and round P_k (4 C + 4) bytes up for the P_k public samples of the round that it
    answers about, P' (4 C + 4) down for the P' that are kept; C classes, 4 bytes for a sample's place in the round.
    A client selects once: KuLSIF estimates r(x) = p(x) / q(x), p the density of its samples and q uniform over their
    box, from m of its samples X and n draws Y of q, with lambda = 1 / sqrt(n) and a Gaussian kernel K:
        r(x) = K(x, Y) a + mean K(x, X) / lambda,   (K(Y, Y) / n + lambda I) a = -K(Y, X) 1 / (n m lambda)
    It answers where r(x) is above the ``quantile`` of r on its other samples. The server takes each public sample's
    mean p over those who answered, and keeps it where |onehot(argmax p) - p|_1 = 2 (1 - max p) is at most
    ``ambiguity``. With quantile = 0 and ambiguity = 2 nothing is cut: DS-FL whose mean is not sharpened.
    Which samples a client answers about tells of what it holds: [privacy] has no mechanism for that, and refuses it.
    Distances are between inputs as nets get them; token ids have none, and are refused. Densities of many dimensions
    are hard to tell, so expect little on images larger than digits (the authors advise features of a trained net).
    Deviations: the demo multiplies by the matrix where it must solve, and estimates other numbers. It takes 5 % of some
    5,400 samples as X; here it is at most ``known`` of them, and half where there are few. Its box is that of MNIST.
    It has no selector at the server, whose threshold in the paper was not at hand: the default keeps all. One step on
    own samples and ten on public ones are epochs here, of [train] and ``distillation_epochs``; both optimisers are kept
    over the rounds.
    """

    public_per_round: Annotated[int, Field(ge=0)] = 1000  # samples; 0 = all, fewer where there are fewer
    quantile: Annotated[float, Field(ge=0, lt=1)] = 0.25  # share of its own samples that a client's cut would leave out
    kernel_width: NonNegative = 5.0  # of the Gaussian kernel, as inputs are scaled; 0 = their median distance
    known: Annotated[int, Field(ge=1)] = 270  # m, at most
    auxiliary: Annotated[int, Field(ge=1)] = 250  # n
    ambiguity: Annotated[float, Field(ge=0, le=2)] = 2.0  # the server's cut; 2 = keeps all
    distillation_epochs: Annotated[int, Field(ge=0)] = 0  # 0 = train.epochs

    paper: ClassVar[str] = "Shao et al., Nature Communications 2024, arXiv 2304.01731"
    sends: ClassVar[str] = "probabilities of some public samples and which, both ways"
    needs: ClassVar[Needs] = Needs(labels=True, public=True)
    outlives_its_round: ClassVar[bool] = False
    idle: ClassVar[Idle] = {
        "public_per_round": (Beyond("public_per_round"),),
        **dict.fromkeys(("kernel_width", "known", "auxiliary"), (Unless(quantile=0),)),
    }

    def check_samples(self, node: Node) -> None:
        """Refuse samples between which there are no distances."""
        kind = node.federation.source.kind.name
        if self.quantile and (kind == "tokens" or isinstance(node.federation.source.shape, Mapping)):
            raise InputError(
                f"strategy: SelectiveFD measures distances between samples, and those of kind {kind!r} have none: "
                "set strategy.quantile = 0, or take another strategy"
            )

    def exchanges_per_round(self, experiment: Settings) -> int:
        """One to upload predictions, one to learn."""
        return 2

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """As many rows as the client answers, in the first exchange; nothing in the second."""
        if server.exchange:
            return {}
        samples = len(server.public_subset(self.public_per_round))
        answers = UpTo("answers", samples) if self.quantile else samples
        probabilities = TensorSpec((answers, server.classes), torch.float32, "probabilities")
        return {"probabilities": probabilities, "places": TensorSpec((answers,), torch.int32, "counts")}

    def check_upload(self, server: Server, upload: Knowledge) -> None:
        """Each public sample of the round once, in order."""
        places, samples = upload.tensors.get("places"), len(server.public_subset(self.public_per_round))
        if places is not None and len(places):
            if bool((places[1:] <= places[:-1]).any()):
                raise ValueError("its places do not ascend")
            if int(places[-1]) >= samples:
                raise ValueError(f"it answers about sample {int(places[-1])} of {samples}")

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs, then answers; in the second exchange, epochs towards what was kept of all answers."""
        net, data = client.net(init="own", keep=True), client.train.labelled()
        subset = client.public_subset(self.public_per_round)
        if client.exchange == 0:
            losses = train_on_labels(net, data, optimizer=client.optimizer("private", net))
            places = self._selected(client, data, subset).nonzero().squeeze(1)  # (P_k,)
            said = (
                predict_public(net, client.split(subset.samples.subset(places))).reshape(-1, client.classes).softmax(1)
            )
            return packed(said, places, weight=len(data), metrics=losses)
        places = broadcast.tensors["places"].long()
        if len(places) < 2:  # nothing to learn from, or nothing that a net with batch statistics could
            return Knowledge(weight=len(data))
        kept, targets = client.split(subset.samples.subset(places)), broadcast.tensors["probabilities"]
        optimizer = client.optimizer("distillation", net)
        losses = distil(net, kept, targets, soft_cross_entropy, optimizer=optimizer, epochs=self.distillation_epochs)
        return Knowledge(weight=len(data), metrics={"distillation": losses["distillation"]})

    def _selected(self, client: Client, data: Split, subset: Split) -> Tensor:
        """Which of these public samples the client answers about, (P,) bool; found out for all of them once."""
        if not self.quantile:
            return torch.ones(len(subset), dtype=torch.bool)
        public = client.public
        if "answers" not in client.memory:
            rng = client.lasting_rng("density")
            own = vectors(data)[torch.randperm(len(data), generator=rng)]  # (n_k, D)
            m = min(self.known, (len(own) + 1) // 2)
            known, others = own[:m], own[m:] if len(own) > m else own
            box = own.min() + (own.max() - own.min()) * torch.rand(self.auxiliary, own.shape[1], generator=rng).double()
            width = self.kernel_width or median_distance(own)
            cut = density_ratio(others, known, box, width=width).quantile(self.quantile)
            client.memory["answers"] = density_ratio(vectors(public), known, box, width=width) > cut
        return Table(public.samples.indices, client.memory.tensor("answers")).rows(subset.samples.indices)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The mean of the answers about each sample, where it is clear enough."""
        if server.exchange:
            return Knowledge()
        samples = len(server.public_subset(self.public_per_round))
        tables = torch.zeros(len(uploads), samples, server.classes)  # (K, P, C)
        answered = torch.zeros(len(uploads), samples, dtype=torch.bool)  # (K, P)
        for row, (_, upload) in enumerate(sorted(uploads.items())):
            places = upload.tensors["places"].long()
            tables[row, places] = renormalise(upload.tensors["probabilities"].clamp_min(0))
            answered[row, places] = True
        means, answers = masked_mean(tables, answered)  # (P, C), (P,)
        places = ((answers > 0) & (unclear(means) <= self.ambiguity)).nonzero().squeeze(1)
        server.report({"answered": float(answered.float().mean()), "kept": len(places) / samples})  # shares
        return packed(means[places], places)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """A client's own net; the server has none."""
        return {"main": classifier(node.net(init="own", keep=True))} if isinstance(node, Client) else {}


def packed(
    probabilities: Tensor, places: Tensor, *, weight: float = 1.0, metrics: Mapping[str, float] | None = None
) -> Knowledge:
    """Rows (P', C) and which samples of the round they are for, (P',)."""
    rows = Knowledge.of("probabilities", {"probabilities": probabilities}, weight=weight, metrics=metrics or {})
    return rows.with_tensors("counts", {"places": places.int()})


def unclear(probabilities: Tensor) -> Tensor:
    """The sum over classes of |onehot(argmax p) - p|, 0 (certain) to 2. (P,) of (P, C)"""
    return 2 * (1 - probabilities.max(1).values)


# ---- densities


def density_ratio(samples: Tensor, known: Tensor, auxiliary: Tensor, *, width: float) -> Tensor:
    """KuLSIF: an estimate of p(x) / q(x), p what ``known`` are drawn from, and q what ``auxiliary`` are.

    Kanamori, Suzuki and Sugiyama 2012, "Statistical Analysis of Kernel-Based Least-Squares Density-Ratio Estimation".

    Args:
        samples: (S, D) x.
        known: (m, D).
        auxiliary: (n, D).
        width: of the Gaussian kernel exp(-|x - y|^2 / (2 width^2)).

    Returns:
        (S,) float64; it may be a little below 0.
    """
    n, m = len(auxiliary), len(known)
    shrink = n**-0.5  # lambda
    left = kernel(auxiliary, auxiliary, width) / n + shrink * torch.eye(n, dtype=torch.float64)
    right = -kernel(auxiliary, known, width).sum(1) / (n * m * shrink)
    weights: Tensor = torch.linalg.solve(left, right)  # (n,)
    ratios: Tensor = kernel(samples, auxiliary, width) @ weights + kernel(samples, known, width).mean(1) / shrink
    return ratios


def kernel(a: Tensor, b: Tensor, width: float) -> Tensor:
    """exp(-|a_i - b_j|^2 / (2 width^2)), (A, B) float64."""
    distances: Tensor = torch.cdist(a.double(), b.double())
    return (-0.5 * (distances / width).square()).exp()


def median_distance(samples: Tensor) -> float:
    """Between two of up to 500 samples (S, D); 1 where they are all the same."""
    distances = torch.pdist(samples[:500].double())
    return float(distances.median()) or 1.0 if len(distances) else 1.0


def vectors(data: Split) -> Tensor:
    """The samples as nets get them, without random views, each flat. (S, D) float64 on the CPU"""
    return predict(lambda inputs: inputs.flatten(1), data.samples, data.work).double()
