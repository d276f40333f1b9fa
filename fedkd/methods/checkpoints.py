"""Checkpoints that teach: other clients' of some steps ago (codistillation), and received nets as frozen teachers.

For the first a round is cut into exchanges by steps. An exchange has a number that counts over the run from 0, its ``clock``;
copies are as old as that number says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor

from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.node import Node
from fedkd.experiment.algorithm.server import Server
from fedkd.experiment.algorithm.train import Draw, Split, batch_sizes
from fedkd.experiment.experiment import Experiment
from fedkd.knowledge.knowledge import Knowledge
from fedkd.losses import kd_loss, logit_mse, soft_cross_entropy
from fedkd.nets import Net, load
from fedkd.targets import mean_logits, mean_probs

#: Codistillation's psi by name: of own logits (B, C) and those of K - 1 others (K - 1, B, C), which are constants.
AGREEMENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": lambda own, others: soft_cross_entropy(own, mean_probs(others).probabilities()),
    "kl": lambda own, others: kd_loss(own, mean_probs(others).logits(), temperature=1.0),
    "logit_mse": lambda own, others: logit_mse(own, mean_logits(others).logits()),
}


def steps_per_round(data: Split) -> int:
    """Steps a round on these samples."""
    return data.work.settings.epochs * len(batch_sizes(len(data), data.work.settings.batch_size))


def exchanges_per_round(experiment: Experiment, every: int) -> int:
    """So many that who has the most labelled samples takes at most ``every`` steps in each, at least 1; 1 where that is 0."""
    if not every:
        return 1
    federation, train = experiment.run_federation, experiment.train
    most = max(len(federation.client_train(client).labelled()) for client in range(experiment.data.clients))
    return max(1, math.ceil(train.epochs * len(batch_sizes(most, train.batch_size)) / every))


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

    Those of a round are drawn once, and split evenly over its exchanges. A client with fewer steps than exchanges has nothing
    to train on in some.

    Args:
        client: whose round it is.
        data: its samples.
        exchanges: of a round.
    """
    settings, steps = data.work.settings, steps_per_round(data)
    rng = data.rng("batches") if exchanges == 1 else client.lasting_rng(f"batches of round {client.round}")
    first, end = (steps_before(exchange, exchanges, steps) for exchange in (client.exchange, client.exchange + 1))
    return list(data.draws(epochs=settings.epochs, batch_size=settings.batch_size, rng=rng))[first:end]


def age_in_steps(made: int, now: int, exchanges: int, steps: int) -> float:
    """How old copies made at the end of exchange ``made`` are while they are used in exchange ``now``: the mean over its steps.

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


def pass_on(server: Server, uploads: Mapping[int, Knowledge], now: int, staleness: int) -> dict[int, Knowledge]:
    """Keep the checkpoints of this exchange, and give each client those that the others made ``staleness`` exchanges ago.

    1 is this very exchange. Who did not upload then is absent. The server keeps ``staleness`` checkpoints a client.

    Args:
        server: keeps them; it, not the sender, says which architecture a client's net has.
        uploads: by client id: weights and buffers, or nothing.
        now: the number of this exchange.
        staleness: at least 1.

    Returns:
        for every client: tensors ``<client>/<name>`` of the others in order of their id, each one's architecture in the header
        as ``architecture <client>``, and ``made``, the number of the exchange whose end they are from.
    """
    slot, due = f"checkpoints {now % staleness}", now - staleness + 1
    held = {f"{client}/{name}": tensor for client in sorted(uploads) for name, tensor in uploads[client].tensors.items()}
    server.memory.store(f"{slot}/", held)
    server.memory[f"{slot} made"] = now
    slot = f"checkpoints {due % staleness}"
    due_tensors = server.memory.under(f"{slot}/") if server.memory.get(f"{slot} made") == due else {}
    return {client: _of_others(server, client, due_tensors, due) for client in server.clients}


def nets_of_others(client: Client, broadcast: Knowledge) -> list[Net]:
    """The nets that ``pass_on`` gave this client, in order of their owners' ids, in eval mode and frozen."""
    of = {owner: str(broadcast.header[f"architecture {owner}"]) for owner in _owners(broadcast.tensors)}
    return [frozen_net(client, f"checkpoint of {owner}", under(broadcast, f"{owner}/"), of[owner]) for owner in of]


def under(broadcast: Knowledge, prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with ``prefix``, by the rest of their names."""
    return {name.removeprefix(prefix): t for name, t in broadcast.tensors.items() if name.startswith(prefix)}


def without(broadcast: Knowledge, prefix: str) -> dict[str, Tensor]:
    """All tensors but those whose names start with ``prefix``."""
    return {name: tensor for name, tensor in broadcast.tensors.items() if not name.startswith(prefix)}


def frozen_net(node: Node, name: str, weights: Mapping[str, Tensor], architecture: str | None = None) -> Net:
    """A passing net with these weights and buffers, in eval mode, not to be trained; by default of the node's architecture."""
    net = node.net(name, architecture=architecture)
    load(net, weights)
    return net.eval().requires_grad_(False)


def _of_others(server: Server, client: int, tensors: Mapping[str, Tensor], made: int) -> Knowledge:
    others = {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{client}/")}
    header = {f"architecture {owner}": server.architecture_of(owner) for owner in _owners(others)}
    return Knowledge.of("weights", others, header={**header, "made": made})


def _owners(tensors: Mapping[str, Tensor]) -> list[int]:
    return sorted({int(name.partition("/")[0]) for name in tensors})
