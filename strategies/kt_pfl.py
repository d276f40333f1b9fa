"""KT-pFL: each client learns from its own mixture of all clients' answers, and the server learns what to mix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, final

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
    Settings,
    Strategy,
    TensorSpec,
    classifier,
)
from fedkd.aggregate import learned_coefficients, mean, personalised
from fedkd.experiment.algorithm.conditions import Beyond, Idle, Unless
from fedkd.losses import kd_loss
from fedkd.methods.public_distillation import distil, predict_public, stacked_probabilities, train_on_labels


@final
@dataclass(frozen=True)
class KTpFL(Strategy):
    """Clients say what they predict for public samples; each is taught sum over l of c_kl s_l, and the server learns c.

    Paper: Zhang et al., "Parameterized Knowledge Transfer for Personalized Federated Learning", NeurIPS 2021, arXiv
    2111.02862.
    What travels: 4 P C bytes up and as many down, another table for each client, for each client and round, P public
    samples of the round and C classes. No sample ids: everybody draws the same ones. The K x K coefficients stay at the
    server; ``server_own_coefficient`` is the mean share of a client in its own teacher, 1 / K to begin with.
    A client that takes part for the first time trains on its own samples. Each round, as in the official code: all
    predict; the server takes one step on c and then mixes; each client distils its mixture and, last, trains on its own
    samples. The optimiser is new in each phase.
    In a round where not all take part, the participants' part of a row takes the step as if it were the whole, and gets
    back the share that it had. Who uploaded nothing is taught the mean.
    Tables softened at T = 10 differ so little that c stays near 1 / K under the paper's rho: a lower temperature or rho
    lets it go further.
    Deviations from the official code (the paper's text was not at hand): KL(teacher || client) is the mean over samples
    times T^2; there, divided by C too and without T^2, it is 1000 times smaller at 10 classes and hardly moves a net.
    The step on c is plain, of size ``coefficient_lr``; there gradients are first brought to about 0.01. c is put back
    on the simplex by projection; there by softmax(5 c) each round, which moves it without evidence (see
    fedkd/aggregate/learned.py). Local epochs are ``train.epochs`` in all rounds; there 1, 2 and so on, up to 10 or 20.
    """

    public_per_round: Annotated[int, Field(ge=0)] = 5000  # samples; 0 = all, fewer where there are fewer
    temperature: Positive = 10.0  # T, of what is sent and of the distillation
    coefficient_lr: NonNegative = 1.0  # of the server's step on the coefficients; 0 = all are taught the mean
    rho: NonNegative = 0.7  # how strongly coefficients are pulled to 1 / K
    distillation_epochs: Annotated[int, Field(ge=1)] = 1  # on the round's public samples
    warm_up_epochs: Annotated[int, Field(ge=0)] = 1  # on a client's own samples, before its first upload

    paper: ClassVar[str] = "Zhang et al., NeurIPS 2021, arXiv 2111.02862"
    sends: ClassVar[str] = "probabilities of public samples, both ways, each client a mixture of its own"
    needs: ClassVar[Needs] = Needs(labels=True, public=True)
    outlives_its_round: ClassVar[bool] = False
    idle: ClassVar[Idle] = {
        "public_per_round": (Beyond("public_per_round"),),
        "rho": (Unless(coefficient_lr=0),),
    }

    def exchanges_per_round(self, experiment: Settings) -> int:
        """One to upload predictions, one to learn."""
        return 2

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """Probabilities in the first exchange, nothing in the second."""
        shape = (len(server.public_subset(self.public_per_round)), server.classes)
        return {} if server.exchange else {"probabilities": TensorSpec(shape, torch.float32, "probabilities")}

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Predict, then, in the second exchange, distil and train on one's own samples."""
        net, data = client.net(init="own", keep=True), client.train.labelled()
        subset = client.public_subset(self.public_per_round)
        if client.exchange == 0:
            if "warm" not in client.memory and self.warm_up_epochs:
                train_on_labels(net, data, epochs=self.warm_up_epochs)
            client.memory["warm"] = 1
            softened = (predict_public(net, subset) / self.temperature).softmax(1)  # (P, C)
            return Knowledge.of("probabilities", {"probabilities": softened}, weight=len(data))
        loss = partial(kd_loss, temperature=self.temperature)
        targets = self.temperature * broadcast.tensors["probabilities"].clamp_min(1e-12).log()  # logits of these at T
        taught = distil(net, subset, targets, loss, epochs=self.distillation_epochs)
        losses = train_on_labels(net, data)
        return Knowledge(weight=len(data), metrics={**losses, "distillation": taught["distillation"]})

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge | Mapping[int, Knowledge]:
        """A step on the coefficients, then each participant's mixture."""
        if server.exchange:
            return Knowledge()
        tables, clients = stacked_probabilities(uploads), torch.tensor(sorted(uploads))  # (K', P, C), (K',)
        everybody = len(server.clients)
        held = server.memory.get("coefficients", torch.full((everybody, everybody), 1 / everybody, dtype=torch.float64))
        coefficients, part = step_of_part(torch.as_tensor(held), clients, tables, lr=self.coefficient_lr, rho=self.rho)
        server.memory["coefficients"] = coefficients
        server.report({"own_coefficient": float(coefficients.diagonal().mean())})
        mixtures = zip(clients.tolist(), personalised(tables, part), strict=True)
        own = {client: Knowledge.of("probabilities", {"probabilities": table}) for client, table in mixtures}
        of_all = Knowledge.of("probabilities", {"probabilities": mean(tables)})
        return {client: own.get(client, of_all) for client in server.clients}

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """A client's own net; the server has none."""
        return {"main": classifier(node.net(init="own", keep=True))} if isinstance(node, Client) else {}


def step_of_part(
    coefficients: Tensor, clients: Tensor, tables: Tensor, *, lr: float, rho: float
) -> tuple[Tensor, Tensor]:
    """``learned_coefficients`` where only some clients answered: their part of each of their rows, as if it were all.

    Args:
        coefficients: (K, K) of all clients, rows that sum to one.
        clients: (K',) ids of those that answered, ascending.
        tables: (K', P, C) what they said.
        lr: >= 0.
        rho: >= 0.

    Returns:
        (K, K) with the new part in its place, rows that sum to one; (K', K') the part alone, rows that sum to one too.

    >>> held = torch.tensor([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0], [0.25, 0.25, 0.5]])
    >>> said = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    >>> whole, part = step_of_part(held, torch.tensor([0, 2]), said, lr=0.0, rho=0.7)  # no step: clients 0 and 2
    >>> [[round(share, 2) for share in row] for row in part.tolist()]
    [[0.67, 0.33], [0.33, 0.67]]
    >>> torch.allclose(whole, held)
    True
    """
    place = (clients[:, None], clients)
    part = coefficients[place]  # (K', K')
    share = part.sum(1, keepdim=True)  # (K', 1)
    alone = torch.where(share > 0, part / share, 1 / len(clients))  # nobody here had a share: all the same
    learned = learned_coefficients(tables, alone, lr=lr, rho=rho)
    return coefficients.index_put(place, learned * share), learned
