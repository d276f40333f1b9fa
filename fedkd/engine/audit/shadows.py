"""Shadow clients: those of runs of the same experiment in which the same samples were dealt out otherwise."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from fedkd.base.errors import InputError
from fedkd.base.randomness import derive, seeded
from fedkd.data.dealt_out import DealtOut
from fedkd.data.partition import make_partition
from fedkd.engine.adversity import mislabel, under_adversity
from fedkd.engine.broadcasts import Broadcasts
from fedkd.experiment.algorithm.algorithm import Algorithm
from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.device import device_of
from fedkd.experiment.algorithm.functions import Functions
from fedkd.experiment.algorithm.participation import draw_cohort
from fedkd.experiment.algorithm.predictors import Classifier
from fedkd.experiment.algorithm.server import Server
from fedkd.experiment.algorithm.train import predict
from fedkd.experiment.experiment import Experiment
from fedkd.experiment.strategy_of_round import strategy_of
from fedkd.knowledge import codecs
from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.memory import Memory
from fedkd.results.uploads import Tables

#: What a table on public samples may hold.
SPACES = ("logits", "probabilities")


@dataclass(frozen=True)
class Told:
    """What an attacker sees of one client, and what it cannot see."""

    table: Tensor  # (P, C) float64, in the order of the public samples' ids
    space: str  # of SPACES
    rows: Tensor  # (P,) ids of the public samples that the table speaks of
    held: Tensor  # ids of the samples that the client trained on
    architecture: str
    answers: Tensor | None = None  # (N, C) float64: the client's net's own answers on all candidates


def dealt_anew(experiment: Experiment, federation: DealtOut, number: int) -> tuple[Experiment, DealtOut]:
    """The experiment with another seed, and the same public and private samples, dealt out by it.

    Raises InputError where another seed deals out nothing anew, as with ``natural_id``.
    """
    seed = derive(experiment.seed, "shadow", number) % 2**31
    data = experiment.data
    partition = make_partition(data.partition, data.arguments, clients=data.clients, seed=seed)
    anew = replace(federation, partition=partition, seed=seed)
    held = [set(each.client_train(0).indices.tolist()) for each in (anew, federation)]
    if federation.shared or held[0] == held[1]:
        raise InputError(
            f"data.partition = {data.partition!r} gives clients no other samples with another seed, and shadow clients need "
            "them: audit a run whose samples are dealt out, as by 'iid' or 'dirichlet'"
        )
    return experiment.replace(seed=seed), anew


def shadow_run(experiment: Experiment, functions: Functions, federation: DealtOut, last: int) -> list[Told]:
    """Run the algorithm's two halves up to a round; what the clients of that round told then.

    Nets, training, noise, attacks and lossy codecs are those of the experiment. All that are drawn answer in time.
    """
    run = _Halves(experiment, functions, federation)
    told: list[Told] = []
    for round in range(1, last + 1):
        told = run.round(round)
    return told


class _Halves:
    """The clients and the server of one shadow run."""

    def __init__(self, experiment: Experiment, functions: Functions, federation: DealtOut) -> None:
        device = device_of(experiment.engine)
        self._experiment = experiment
        self._server = Server(experiment, functions, federation, Memory(), device)
        self._clients = [
            Client(number, experiment, functions, federation, Memory(), device) for number in range(experiment.data.clients)
        ]
        for client in self._clients:
            client.simulated = True
            mislabel(client)
        self._broadcasts = Broadcasts()
        with seeded(derive(experiment.seed, 0, "server", "torch")):
            self._broadcasts.announce(experiment.strategy.first_broadcast(self._server))

    def round(self, number: int) -> list[Told]:
        """One round; what its clients told in the first exchange in which they spoke of public samples."""
        strategy = strategy_of(self._experiment, number)
        cohort = [self._clients[client] for client in draw_cohort(self._experiment, number)]
        up, down = (
            codecs.chain(names, "") for names in (strategy.uplink(self._experiment), strategy.downlink(self._experiment))
        )
        tables: dict[int, tuple[str, Tensor]] = {}
        for exchange in range(strategy.exchanges_per_round(self._experiment)):
            uploads: dict[int, Knowledge] = {}
            for client in cohort:
                client.round, client.exchange = number, exchange
                broadcast = codecs.as_decoded(down, self._broadcasts.to(client.id))
                with seeded(derive(self._experiment.seed, number, exchange, client.name, "torch")):
                    uploads[client.id] = codecs.as_decoded(up, under_adversity(client, strategy.client_update, broadcast))
                client.release(kept=False)
            self._server.round, self._server.exchange = number, exchange
            tables = tables or tables_in({client: upload.by_name() for client, upload in uploads.items()})
            with seeded(derive(self._experiment.seed, number, exchange, "server", "torch")):
                self._broadcasts.announce(strategy.server_update(self._server, uploads))
            self._server.release(kept=False)
        told = [self._told(client, *tables[client.id]) for client in cohort if client.id in tables]
        for client in cohort:
            client.flush()
            client.release()
        return told

    def _told(self, client: Client, space: str, table: Tensor) -> Told:
        strategy = self._experiment.strategy
        answers = answers_of(strategy, client, self._broadcasts.to(client.id))
        return told_by(client, space, table, public_rows(strategy, self._server), answers)


def told_by(client: Client, space: str, table: Tensor, rows: Tensor, answers: Tensor | None) -> Told:
    """What a client tells by a table whose rows are for these public samples."""
    order = rows.argsort()
    held = client.train_samples.labelled().indices
    return Told(table[order].double(), space, rows[order], held, client.architecture, answers)


def answers_of(strategy: Algorithm, client: Client, broadcast: Knowledge) -> Tensor | None:
    """What the client's own classifier says of everybody's private samples, (N, C) float64; None where it keeps none."""
    first = next(iter(strategy.predictors(client, broadcast).values()), None)
    if not isinstance(first, Classifier):
        return None
    return predict(first.function, client.federation.examples, client.work()).double()


def tables_in(uploads: Tables) -> dict[int, tuple[str, Tensor]]:
    """The one table of logits or probabilities that each client uploaded, if any: its space and the table."""
    found = {client: [held for held in named.values() if held[0] in SPACES] for client, named in uploads.items()}
    return {client: tables[0] for client, tables in found.items() if len(tables) == 1 and tables[0][1].ndim == 2}


def public_rows(strategy: Algorithm, server: Server) -> Tensor:
    """The ids of the public samples that this round's tables speak of, in the order of their rows. (P,)"""
    if hasattr(strategy, "public_samples"):  # one draw for the whole run
        return server.public_subset(strategy.public_samples, round=0).samples.indices
    return server.public_subset(getattr(strategy, "public_per_round", 0)).samples.indices
