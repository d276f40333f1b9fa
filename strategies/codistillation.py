"""Codistillation: clients on disjoint shards learn from stale copies of each other's nets, run on their own batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, final

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
    Server,
    Settings,
    Split,
    Strategy,
    TensorSpec,
    classifier,
    fit,
)
from fedkd.experiment.algorithm.batches import batches_a_round
from fedkd.experiment.algorithm.conditions import Idle, Unless
from fedkd.experiment.algorithm.train import Draw
from fedkd.losses import kd_loss, logit_mse, soft_cross_entropy
from fedkd.methods.architecture_groups import weights_schema
from fedkd.methods.frozen_nets import frozen_net, tensors_under
from fedkd.nets import Net
from fedkd.targets import mean_logits, mean_probs

#: Codistillation's psi by name: of own logits (B, C) and those of K - 1 others (K - 1, B, C), which are constants.
AGREEMENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": lambda own, others: soft_cross_entropy(own, mean_probs(others).probabilities()),
    "kl": lambda own, others: kd_loss(own, mean_probs(others).logits(), temperature=1.0),
    "logit_mse": lambda own, others: logit_mse(own, mean_logits(others).logits()),
}


@final
@dataclass(frozen=True)
class Codistillation(Strategy):
    """Cross-entropy on one's own shard plus ``weight`` psi(mean of the others' predictions of the batch, one's own).

    Paper: Anil et al., "Large scale distributed neural network training through online distillation", ICLR 2018, arXiv
    1804.03235, Algorithm 1. psi is the cross-entropy with the mean of the others' probabilities; "kl" has its gradient
    and is 0 where all agree; "logit_mse" is of mean logits. The others are constants, run in eval mode: their
    statistics stay.
    What travels: weights and buffers, every ``every`` steps: |θ_k| elements up, those of the K - 1 others down to each
    client, with their architectures. Nets and shards may differ; samples do not travel. Nets and optimisers live at the
    clients.
    A round has as many exchanges as the client with the most samples needs; each client splits its steps evenly over
    them. An exchange ends with checkpoints, and the ``staleness``-th from there uses them. ``staleness`` in the log:
    how many steps of its own a client has taken, on average over the exchange, since its copies were made. Who fails is
    in nobody's target until its next checkpoint. In the burn-in, counted in exchanges of the run, nothing travels but
    what is used after it.
    ``distillation_weight`` is 0 in it and where no checkpoint of others came. ``accuracy`` is the mean of the clients'
    nets.
    Deviations: the paper's workers read whatever checkpoint is there, and train on meanwhile; here all wait for each
    other, so that ages are equal and known. The burn-in is a share of the run, there a number of steps. PFN's code has
    the divergence the other way round, KL(own || others).
    """

    every: Annotated[int, Field(ge=0)] = 0  # steps between checkpoints; 0 = once a round; 50 in PFN's code
    weight: NonNegative = 1.0  # of psi, the term towards the others
    loss: Literal["cross_entropy", "kl", "logit_mse"] = "cross_entropy"  # psi, towards the others' predictions
    burn_in: Annotated[float, Field(ge=0, le=1)] = 0.1  # share of the run without psi; 28 of 70 epochs in PFN's code
    staleness: Annotated[int, Field(ge=1)] = 1  # how old the others are, in checkpoints; 1 = their last ones

    paper: ClassVar[str] = "Anil et al., ICLR 2018, arXiv 1804.03235"
    sends: ClassVar[str] = "weights and buffers up, those of all others down"
    needs: ClassVar[Needs] = Needs(labels=True)
    outlives_its_round: ClassVar[bool] = False  # a late copy would be older than what is logged
    compares_clients: ClassVar[bool] = True
    idle: ClassVar[Idle] = {"loss": (Unless(weight=0), Unless(burn_in=1)), "weight": (Unless(burn_in=1),)}

    def exchanges_per_round(self, experiment: Settings) -> int:
        """The steps of the client with the most samples over ``every``, rounded up."""
        return exchanges_of(experiment, self.every)

    def _when(self, node: Node) -> tuple[int, int, int]:
        """Exchanges a round; the number of this one and of the first after the burn-in, over the run."""
        exchanges = self.exchanges_per_round(node.experiment)
        first = round(self.burn_in * node.experiment.rounds * exchanges)
        return exchanges, clock(node, exchanges), first

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """Weights and buffers of the client's architecture, if they are used after the burn-in."""
        _, now, first = self._when(server)
        return weights_schema(server, client) if now + self.staleness >= first else {}

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """This exchange's steps, then a checkpoint."""
        exchanges, now, first = self._when(client)
        net, others = client.net(init="own", keep=True), nets_of_others(client, broadcast)
        data = client.train.labelled()
        draws = share_of_round(client, data, exchanges)

        def loss(net: Net, batch: Batch) -> dict[str, Tensor]:
            logits = net(batch.inputs)  # (B, C)
            parts = {"cross_entropy": batch.cross_entropy(logits)}
            if others:
                with torch.no_grad():
                    teaching = torch.stack([other(batch.inputs) for other in others])  # (K - 1, B, C)
                parts["distillation"] = self.weight * AGREEMENTS[self.loss](logits, teaching)
            return parts

        metrics = fit(net, data, loss, optimizer=client.optimizer("main", net), draws=draws) if draws else {}
        metrics["distillation_weight"] = self.weight if others else 0.0
        if others:
            made, steps = int(broadcast.header["made"]), steps_per_round(data)
            metrics["staleness"] = age_in_steps(made, now, exchanges, steps)
        sent = net.state_dict() if now + self.staleness >= first else {}
        return Knowledge.of("weights", sent, weight=len(data), metrics=metrics)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Mapping[int, Knowledge]:
        """To each client the others'"""
        return pass_on(server, uploads, self._when(server)[1], self.staleness)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """A client's own net; the server has none."""
        return {"main": classifier(node.net(init="own", keep=True))} if isinstance(node, Client) else {}


# ---- a round cut into exchanges by steps
#
# An exchange has a number that counts over the run from 0, its ``clock``; copies are as old as that number says.


def steps_per_round(data: Split) -> int:
    """Steps a round on these samples."""
    return batches_a_round(len(data), data.work.settings)


def exchanges_of(experiment: Settings, every: int) -> int:
    """So many that who has the most labelled samples takes at most ``every`` steps in each; 1 where that is 0."""
    if not every:
        return 1
    most = experiment.run_federation.most_labelled
    return max(1, math.ceil(batches_a_round(most, experiment.train) / every))


def clock(node: Node, exchanges: int) -> int:
    """The number of this exchange, counted over the run from 0, where each round has so many."""
    return (max(1, node.round) - 1) * exchanges + node.exchange


def steps_before(clock: int, exchanges: int, steps: int) -> int:
    """Steps that a client with so many a round has taken before an exchange, if it takes part in all of them.

    >>> [steps_before(clock, 4, 6) for clock in range(6)]  # 1, 2, 1 and 2 steps in the exchanges of a round
    [0, 1, 3, 4, 6, 7]
    """
    rounds, exchange = divmod(clock, exchanges)
    return rounds * steps + exchange * steps // exchanges


def share_of_round(client: Client, data: Split, exchanges: int) -> list[Draw]:
    """The batches that a client trains on in this exchange.

    Those of a round are drawn once, and split evenly over its exchanges. A client with fewer steps than exchanges has
    nothing to train on in some.

    Args:
        client: whose round it is.
        data: its samples.
        exchanges: of a round.
    """
    settings, steps = data.work.settings, steps_per_round(data)
    rng = data.rng("batches") if exchanges == 1 else client.lasting_rng(f"batches of round {client.round}")
    first, end = (steps_before(exchange, exchanges, steps) for exchange in (client.exchange, client.exchange + 1))
    return list(data.of_a_round(settings.batch_size, rng))[first:end]


def age_in_steps(made: int, now: int, exchanges: int, steps: int) -> float:
    """How old copies made at the end of exchange ``made`` are in exchange ``now``: the mean over its steps.

    Args:
        made: number of the exchange after which the copies were made.
        now: number of the exchange in which they are used.
        exchanges: of a round.
        steps: a round, of the client that uses them: its own are counted.

    >>> age_in_steps(0, 1, 1, 9), age_in_steps(0, 2, 1, 9)  # 0, 1 ... 8 steps; 9 more where a newer one could be had
    (4.0, 13.0)
    """
    before = steps_before(now, exchanges, steps)
    here = steps_before(now + 1, exchanges, steps) - before
    return before - steps_before(made + 1, exchanges, steps) + max(0, here - 1) / 2


# ---- checkpoints that the server passes on


def pass_on(server: Server, uploads: Mapping[int, Knowledge], now: int, staleness: int) -> dict[int, Knowledge]:
    """Keep the checkpoints of this exchange, and give each client the others' of ``staleness`` exchanges ago.

    1 is this very exchange. Who did not upload then is absent. The server keeps ``staleness`` checkpoints a client.

    Args:
        server: keeps them; it, not the sender, says which architecture a client's net has.
        uploads: by client id: weights and buffers, or nothing.
        now: the number of this exchange.
        staleness: at least 1.

    Returns:
        for every client: tensors ``<client>/<name>`` of the others in order of their id, each one's architecture in the
        header as ``architecture <client>``, and ``made``, the number of the exchange whose end they are from.
    """
    slot, due = f"checkpoints {now % staleness}", now - staleness + 1
    of = {client: uploads[client].tensors for client in sorted(uploads)}
    made = {f"{client}/{name}": tensor for client in of for name, tensor in of[client].items()}
    server.memory.store(f"{slot}/", made)
    server.memory[f"{slot} made"] = now
    slot = f"checkpoints {due % staleness}"
    due_tensors = server.memory.under(f"{slot}/") if server.memory.get(f"{slot} made") == due else {}
    return {client: others_checkpoints(server, client, due_tensors, due) for client in server.clients}


def nets_of_others(client: Client, broadcast: Knowledge) -> list[Net]:
    """The nets that ``pass_on`` gave this client, in order of their owners' ids, in eval mode and frozen."""
    of = {owner: str(broadcast.header[f"architecture {owner}"]) for owner in owners(broadcast.tensors)}
    weights = {owner: tensors_under(broadcast, f"{owner}/") for owner in of}
    return [frozen_net(client, f"checkpoint of {owner}", weights[owner], of[owner]) for owner in of]


def others_checkpoints(server: Server, client: int, tensors: Mapping[str, Tensor], made: int) -> Knowledge:
    """The checkpoints of all but this client, and which architectures they have."""
    others = {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{client}/")}
    header = {f"architecture {owner}": server.architecture_of(owner) for owner in owners(others)}
    return Knowledge.of("weights", others, header={**header, "made": made})


def owners(tensors: Mapping[str, Tensor]) -> list[int]:
    """The clients whose checkpoints these are, ascending."""
    return sorted({int(name.partition("/")[0]) for name in tensors})
