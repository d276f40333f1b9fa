"""The run: one mutable object beside the frozen strategy. It owns the server, the broadcasts and the loop over rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from fedkd.base.errors import RunFailed
from fedkd.base.randomness import derive, seeded, torch_threads
from fedkd.engine.broadcasts import Broadcasts
from fedkd.engine.evaluation_round import EvaluationRound
from fedkd.engine.joining import facts_of
from fedkd.engine.node_memory import welcome_back
from fedkd.engine.opened import open_training, open_transport
from fedkd.engine.own_nodes import met
from fedkd.engine.rehearsal import rehearse
from fedkd.engine.round_metrics import RoundMetrics
from fedkd.engine.spending import Spending
from fedkd.engine.stopping import RunStop
from fedkd.engine.training_round import Exchanges
from fedkd.experiment.algorithm.device import device_of
from fedkd.experiment.algorithm.functions import Functions
from fedkd.experiment.algorithm.server import Server
from fedkd.experiment.algorithm.upload_schemas import upload_schemas
from fedkd.experiment.experiment import Experiment
from fedkd.experiment.protection import check_protected
from fedkd.knowledge.memory import Memory
from fedkd.knowledge.records import with_arrays
from fedkd.results.history import History
from fedkd.results.lost_rounds import LostRounds, failure_of

OnRound = Callable[[dict[str, Any], list[dict[str, Any]]], None]


class Run:
    """One run of an experiment on a grid. ``done`` is the last round that is over: -1 at first, later after ``restore``."""

    def __init__(
        self,
        experiment: Experiment,
        grid: Grid,
        *,
        functions: Functions | None = None,
        initial_arrays: ArrayRecord | None = None,
        on_round: OnRound | None = None,
        reasons: str = "history.clients",
        number: str = "",
        beside: Mapping[str, ConfigRecord] = MappingProxyType({}),
    ) -> None:
        self.strategy = experiment.strategy
        self.transport = open_transport(experiment, grid, number, beside)
        self.experiment = experiment = met(experiment, self.transport)
        federation, device = experiment.run_federation, device_of(experiment.engine)
        self.server = Server(experiment, functions or Functions(), federation, Memory(), device)
        if experiment.privacy.noise_multiplier:
            schemas = upload_schemas(self.strategy, self.server)
            check_protected(type(self.strategy).__name__, schemas, partition=experiment.data.partition)
        self.evaluation = EvaluationRound(experiment, self.server, self.transport)
        self.done, self.broadcasts = -1, Broadcasts()
        self.training = open_training(experiment, self.server, self.transport, self.broadcasts)
        self._initial_arrays, self._on_round = initial_arrays, on_round
        self.metrics, self.stopping = RoundMetrics(0, experiment.timeout), RunStop(experiment)
        self._spending = Spending(grid)
        #: All rows so far; ``restore`` puts those of the rounds that are done here.
        self.history = History()
        self._prepared, self._reasons, self._lost = False, reasons, LostRounds(reasons)

    def prepare(self) -> None:
        """Go as far as one can without training: rehearse, find out who is there, make the first broadcast.

        Raises InputError for all that can be known to be wrong by now. What writes a run to disk begins after it.
        """
        with torch_threads(self.experiment.engine.num_cpus):
            rehearse(self.strategy, self.server)
            facts = facts_of(self.strategy, self.server, simulated=self.transport.simulated)
            self.transport.join(facts, begins=self.done < 0)
            if self.done < 0:
                self.begin(0)
                self._first_broadcast()
        self._prepared = True

    def execute(self) -> History:
        """Run all rounds that are left. Row 0 is the state before training.

        Raises RunFailed, which holds the History, if in none of all rounds there was anything to learn from, or to evaluate.
        """
        try:
            if not self._prepared:
                self.prepare()
            with torch_threads(self.experiment.engine.num_cpus), self._spending:
                for round in range(self.done + 1, self.experiment.rounds + 1):
                    if not self.stopping.is_over(self.history.metrics):
                        self._round(round)
        finally:
            self.server.release()
        self.check()
        return self.history

    def _round(self, round: int) -> None:
        if round:
            self.begin(round)
            self.training.carry_out(self.metrics)
        if self.experiment.evaluates(round) or self.stopping.has_spent(self.history.metrics, self.metrics):
            self._evaluate(round)
        self.done = round
        row, clients = self.close()
        self.stopping.enter(self.history.metrics)
        if self._on_round:
            self._on_round(row, clients)

    def close(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """End a round: its row and its clients' lines go to the history, and are given. A Notice tells of a lost round."""
        row, clients = self.metrics.close()
        self.history.metrics.append(row)
        self.history.clients.extend(clients)
        self._lost.enter(row)
        return row, clients

    def check(self) -> None:
        """Raise RunFailed if the rounds so far have nothing to show."""
        if failure := failure_of(self.history.metrics):
            raise RunFailed(f"{failure}; all reasons: {self._reasons}", self.history)

    # Training

    def instructions(self) -> list[Message]:
        """The messages of a round's only exchange, where Flower's loop carries them."""
        return self._exchanges.instructions(self.metrics, 0)

    def absorb(self, replies: Iterable[Message]) -> None:
        """The uploads of a round's only exchange, where Flower's loop brings them."""
        self._exchanges.absorb(list(replies), self.metrics, 0)

    @property
    def _exchanges(self) -> Exchanges:
        if not isinstance(self.training, Exchanges):
            raise RuntimeError('participation = "async" has no rounds of messages for Flower\'s loop: call start(grid, ...)')
        return self.training

    def losses(self) -> MetricRecord:
        """The round's mean loss over clients, so far."""
        return MetricRecord({key: float(value) for key, value in self.metrics.row.items() if key == "loss"})

    def adopt(self, arrays: ArrayRecord) -> None:
        """Put these arrays in the place of the common broadcast's tensors, which must have the same names."""
        common = self.broadcasts.common
        self.broadcasts.common = self.server.taken_over(common, with_arrays(common, arrays))

    def arrays(self) -> ArrayRecord:
        """The tensors of the common broadcast, as Flower has them."""
        return ArrayRecord({name: tensor.float() for name, tensor in self.broadcasts.common.tensors.items()})

    def begin(self, round: int) -> None:
        """Begin a round, with metrics of its own. Nodes that were started again since the last one are helped."""
        if round:
            welcome_back(self.transport, round - 1)
        self.metrics = RoundMetrics(round, self.experiment.timeout, self._spending.so_far)
        self.training.pace.begin(self.metrics)
        self.server.round, self.server.exchange, self.server.reported = round, 0, {}

    def _first_broadcast(self) -> None:
        with seeded(derive(self.experiment.seed, 0, "server", "torch")):
            self.broadcasts.announce(self.strategy.first_broadcast(self.server))
        if self._initial_arrays:
            self.adopt(self._initial_arrays)
        self.server.release(kept=False)

    # Evaluation
    def evaluation_instructions(self, round: int) -> list[Message]:
        """Score the server's predictors; the messages that ask clients to score theirs."""
        self.server.round = round
        return self.evaluation.ask(self.broadcasts, self.metrics)

    def absorb_evaluation(self, round: int, replies: Iterable[Message]) -> MetricRecord:
        """Put the clients' accuracies into the metrics of the round; gives those that Flower reports."""
        self.evaluation.absorb(replies, self.metrics)
        return MetricRecord(
            {key: float(self.metrics.row[key]) for key in ("accuracy", "client_accuracy") if key in self.metrics.row}
        )

    def _evaluate(self, round: int) -> None:
        messages = self.evaluation_instructions(round)
        self.absorb_evaluation(round, self.transport.ask(messages))
