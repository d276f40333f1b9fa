"""FedAUX: nets begin from public samples, and teach on each of these as sure as they are that it is like their own."""

from __future__ import annotations

import math
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
    Positive,
    Server,
    Split,
    Strategy,
    TensorSpec,
    classifier,
    fit,
    load,
    predict,
)
from fedkd.aggregate import mean, weighted_mean
from fedkd.experiment.algorithm.conditions import Idle, Unless
from fedkd.experiment.algorithm.optimizer_state import trainable
from fedkd.losses import kd_loss
from fedkd.methods import architecture_groups as groups
from fedkd.methods.contrastive import SimCLR
from fedkd.methods.encoders.global_encoder import own_objective
from fedkd.methods.frozen_nets import frozen_net, put_under, tensors_under
from fedkd.methods.public_distillation import distil, predict_public

Count = Annotated[int, Field(ge=0)]
Steps = Annotated[int, Field(ge=1)]
Inside = Annotated[float, Field(gt=0, lt=1)]
#: In a broadcast's header: whether the client's scores have not come yet.
WANTED = "scores_wanted"
#: Name of the log-odds of a client's scores in its upload and its memory; in the server's a client's id follows.
SCORES = "scores"
#: How the names of the net that scores begin, in a broadcast and in the server's memory.
SCORER = "scorer/"


@final
@dataclass(frozen=True)
class FedAUX(Strategy):
    """FedAvg by architecture; then clients' nets teach the means on public samples, each as sure as its client is.

    Paper: Sattler et al., "FedAUX: Leveraging Unlabeled Auxiliary Data in Federated Learning", IEEE TNNLS 2023, arXiv
    2102.02514.
    What travels: weights and buffers of the client's architecture g, down and up, |θ_g| elements each; from each client
    once 4 P bytes up, its log-odds of P = (1 - ``negatives``) of the public samples; |θ_g| elements more down in rounds
    after the first, to whom has sent none yet: the net that scores.
    Before round 1 the server trains an encoder of each architecture on all public samples, by SimCLR. All begin from
    it, and it scores: h(x) are its features, made shorter to lie in the unit ball. A client with n_k samples fits the
    logistic regression that tells these from the n - n_k public samples that are set apart as ``negatives``:
        w = argmin of the mean of log(1 + exp(-y w h(x))) over all n + lambda / 2 |w|^2,   y = 1 for its own, else -1
        s_k(x) = sigmoid((w + noise) h(x)) + 1e-8 for the P others, noise of N(0, sigma^2) in each coordinate
        sigma = 2 / (n lambda) sqrt(2 ln(1.25 / delta)) / epsilon
    Each round, on these P, a mean of clients' nets descends KL(softmax(sum_k s_k z_k / sum_k s_k) || own), by Adam.
    Scores are (epsilon, delta)-private for one sample of a client that is exchanged for another: w moves by at most
    2 / (n lambda). That covers the scores alone, not the weights and sample counts that go beside them ([privacy]
    refuses them), and drowns scores of few samples: with n = 1,000, lambda = 0.01 and the code's epsilon of 0.1, delta
    of 1e-5, sigma is 9.7, and |w| at most 11.8. So the default is no noise. It comes from a seeded generator.
    On digits, where clients know few classes, it beat FedAvg after few rounds, and equal scores did not.
    Deviations from the official code: its noise takes lambda for the weight in this mean, but its solver gets it as a
    weight beside the sum (C = 1 / lambda; it must be 1 / (lambda n)), so that one sample moves w by more than the noise
    covers; the intercept, which it does not shrink, is here a coordinate as any other; features are divided by the
    largest norm of public ones, there of a client's too; clients send (w + noise) h(x), so that nobody's score is above
    1, there scores. There the samples for distillation overlap with those set apart. Teachers are in eval mode, there
    in train mode; Adam is new each round. Nets whose logits are not finite, or whose scores have not come, do not
    teach; the latter count in their mean. With equal scores it is FedDF without a validation set.
    """

    pretraining_epochs: Count = 20  # of SimCLR at the server, before round 1; 0 = none, untrained nets score
    contrast_temperature: Positive = 0.5  # of its NT-Xent
    negatives: Inside = 0.2  # share of the public samples that clients' own are told from; the others are distilled
    regularization: Positive = 0.01  # lambda
    epsilon: Annotated[float, Field(ge=0, le=1)] = 0.0  # of the scores; 0 = no noise; the formula holds up to 1
    delta: Inside = 1e-5  # of the scores
    epochs: Steps = 5  # of distillation, each round; 1 in the code, where public samples are many
    batch_size: Steps = 128  # public samples a step
    lr: Positive = 1e-3  # of Adam; 5e-5 in the code

    paper: ClassVar[str] = "Sattler et al., IEEE TNNLS 2023, arXiv 2102.02514"
    sends: ClassVar[str] = "weights and buffers, both ways, by architecture; once a number for each public sample"
    needs: ClassVar[Needs] = Needs(labels=True, public=True, uses=("server_net", "views"))
    idle: ClassVar[Idle] = {
        **dict.fromkeys(("contrast_temperature", "views"), (Unless(pretraining_epochs=0),)),
        "delta": (Unless(epsilon=0),),
    }

    def check_samples(self, node: Node) -> None:
        """Refuse a public set that is no two sets."""
        if (samples := len(node.public)) < 3:
            raise InputError(
                f"data.public: FedAUX sets some public samples apart, and distils on the others: {samples} are too "
                "few, set it to 3 at least"
            )

    def _public(self, node: Node) -> tuple[Split, Split]:
        """The public samples that are set apart, and those that are scored and distilled; the same at all nodes."""
        samples = node.public_subset(round=0).samples
        apart = min(max(1, round(self.negatives * len(samples))), len(samples) - 2)
        places = torch.arange(len(samples))
        return node.split(samples.subset(places[:apart])), node.split(samples.subset(places[apart:]))

    def first_broadcast(self, server: Server) -> Mapping[int, Knowledge]:
        """Each architecture's first weights, whose encoder has learned from the public samples."""
        for architecture in groups.architectures(server):
            net = groups.group_net(server, architecture)
            if self.pretraining_epochs:
                load(net.encoder, self._pretrained(server, architecture))
            server.memory.store(f"{SCORER}{architecture}/", net.state_dict())
        told = groups.weights_of_groups(server)
        return {client: knowledge.with_header(**{WANTED: 1}) for client, knowledge in told.items()}

    def _pretrained(self, server: Server, architecture: str) -> Mapping[str, Tensor]:
        net = server.net(f"{architecture} alone", architecture=architecture, heads=("projection",))
        contrast = own_objective(SimCLR(self.contrast_temperature))
        fit(net, server.public, lambda net, batch: contrast(net, batch, None), epochs=self.pretraining_epochs)
        return net.encoder.state_dict()

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """Weights and buffers of the client's architecture, and scores where they were asked for."""
        samples = len(self._public(server)[1])
        scores = TensorSpec((samples,), torch.float32, "embedding", optional=True)
        return {**groups.weights_schema(server, client), SCORES: scores}

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Scores, if they are wanted; then local epochs of cross-entropy, from the group's weights."""
        weights = weights_of(broadcast)
        if wanted := bool(broadcast.header.get(WANTED)):
            self._score(client, tensors_under(broadcast, SCORER) or weights)
        upload = groups.train_received(client, Knowledge.of("weights", weights))
        return upload.with_tensors("embedding", {SCORES: client.memory.tensor(SCORES)}) if wanted else upload

    def _score(self, client: Client, scorer: Mapping[str, Tensor]) -> None:
        """Keep scores in the client's memory: noise that is drawn twice protects less."""
        if SCORES in client.memory:
            return
        net = frozen_net(client, "scorer", scorer)
        apart, scored = self._public(client)
        own, public, asked = (predict(net.encoded, data.samples, data.work) for data in (client.train, apart, scored))
        longest = float(torch.linalg.vector_norm(public.double(), dim=1).max())
        own, public, asked = (in_unit_ball(features, longest) for features in (own, public, asked))
        direction = fit_certainty(own, public, self.regularization)
        if self.epsilon:
            width = sensitivity(len(own) + len(public), self.regularization) * noise_width(self.epsilon, self.delta)
            noise = torch.randn(direction.shape, dtype=direction.dtype, generator=client.lasting_rng("noise"))
            direction = direction + width * noise
        client.memory[SCORES] = (asked @ direction).float()

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Mapping[int, Knowledge]:
        """The mean of each architecture's nets learns what all say, weighted by their scores."""
        for client, upload in uploads.items():
            if SCORES in upload.tensors:
                server.memory[f"{SCORES}/{client}"] = upload.tensors[SCORES]
        scores, subset = scores_of(server), self._public(server)[1]
        weights = {client: upload.in_space("weights") for client, upload in uploads.items()}
        answers: dict[int, Tensor] = {}
        for client, teacher in groups.clients_nets(server, {k: each.tensors for k, each in weights.items()}):
            logits = predict_public(teacher, subset)
            if logits.isfinite().all():
                answers[client] = logits
        teachers = [client for client in answers if client in scores]
        if teachers:
            said, sure = torch.stack([answers[k] for k in teachers]), torch.stack([scores[k] for k in teachers])
            targets = mean(said, sure)  # (K, P, C) and (K, P) -> (P, C)
            server.show_teaching({k: answers[k] for k in teachers}, targets, subset)
        losses = []
        for architecture in groups.architectures(server):
            student = groups.group_net(server, architecture)
            own = {k: weights[k] for k in answers if server.architecture_of(k) == architecture}
            if own:
                load(student, weighted_mean(own, weights=[1.0] * len(own)).tensors)
            if teachers:
                adam = torch.optim.Adam(trainable(student, subset.work.where), lr=self.lr)
                seen = distil(
                    student, subset, targets, divergence, optimizer=adam, epochs=self.epochs, batch_size=self.batch_size
                )
                losses.append(seen["distillation"])
        server.report({"distillation": sum(losses) / len(losses)} if losses else {})
        return told_to_each(server)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The means that were taught, that of its own architecture first; its group's at a client."""
        if not isinstance(node, Server):
            return {"group": classifier(node.net("broadcast", weights=weights_of(broadcast)))}
        students = {name: classifier(groups.group_net(node, name)) for name in groups.architectures(node)}
        return {"server": students.pop(node.architecture), **students}


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of logits (B, C), T = 1."""
    return kd_loss(student, teacher, temperature=1.0)


# ---- what is sent


def scores_of(server: Server) -> dict[int, Tensor]:
    """The scores that have come so far, by client id, (P,) each."""
    return {int(client): odds.sigmoid() + 1e-8 for client, odds in server.memory.under(f"{SCORES}/").items()}


def told_to_each(server: Server) -> dict[int, Knowledge]:
    """The weights of its group for each client, and the net that scores for those whose scores have not come."""
    told, scores = groups.weights_of_groups(server), scores_of(server)
    asked: dict[str, Knowledge] = {}
    for client in told.keys() - scores.keys():
        architecture = server.architecture_of(client)
        if architecture not in asked:
            scorer = put_under(SCORER, server.memory.under(f"{SCORER}{architecture}/"))
            asked[architecture] = told[client].with_tensors("weights", scorer).with_header(**{WANTED: 1})
        told[client] = asked[architecture]
    return told


def weights_of(broadcast: Knowledge) -> dict[str, Tensor]:
    """All tensors of a broadcast but those of the net that scores."""
    return {name: tensor for name, tensor in broadcast.tensors.items() if not name.startswith(SCORER)}


# ---- how sure a client is


def in_unit_ball(features: Tensor, longest: float) -> Tensor:
    """Features over ``longest``, none of them longer than 1, and a one beside them: (N, D) -> (N, D + 1) float64.

    All are divided by sqrt(2), so that their lengths are at most 1.

    >>> in_unit_ball(torch.tensor([[3.0, 4.0], [60.0, 80.0]]), 10.0) * 2**0.5
    tensor([[0.3000, 0.4000, 1.0000],
            [0.6000, 0.8000, 1.0000]], dtype=torch.float64)
    """
    rows = features.double()
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(longest or 1.0)
    return torch.cat([rows / lengths, torch.ones_like(lengths)], dim=1) / math.sqrt(2)


def fit_certainty(own: Tensor, public: Tensor, regularization: float) -> Tensor:
    """The logistic regression that tells own samples (n_k, D) from public ones (n - n_k, D), both in the unit ball.

    Args:
        own: its rows are the class that is named.
        public: the other class.
        regularization: lambda, of lambda / 2 |w|^2 beside the mean loss of all n.

    Returns:
        (D,) float64; one row that changes moves it by at most ``sensitivity(n, lambda)``.
    """
    from sklearn.linear_model import LogisticRegression  # only here, as it takes a second

    rows, labels = torch.cat([own, public]).double(), [1] * len(own) + [0] * len(public)
    inverse = 1 / (regularization * len(rows))  # scikit-learn descends C sum of losses + 1/2 |w|^2
    model = LogisticRegression(C=inverse, fit_intercept=False, solver="newton-cholesky", tol=1e-9, max_iter=1000)
    return torch.from_numpy(model.fit(rows.numpy(), labels).coef_[0]).double()


def sensitivity(samples: int, regularization: float) -> float:
    """How far one of n rows of the unit ball can move the minimum: 2 / (n lambda).

    Chaudhuri, Monteleoni and Sarwate 2011, "Differentially Private Empirical Risk Minimization", corollary 8.
    """
    return 2 / (samples * regularization)


def noise_width(epsilon: float, delta: float) -> float:
    """Standard deviation of the Gaussian mechanism at sensitivity 1; it holds for epsilon up to 1.

    >>> round(noise_width(1.0, 1e-5), 3)
    4.845
    """
    return math.sqrt(2 * math.log(1.25 / delta)) / epsilon
