"""Strategy: one file is one algorithm, both halves. It IS a Flower strategy; Flower's hooks are written here, once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result
from flwr.serverapp.strategy import Strategy as FlowerStrategy
from pydantic import BeforeValidator, Field

from fedkd.base.errors import InputError
from fedkd.knowledge.knowledge import Knowledge, TensorSpec, schema_of

if TYPE_CHECKING:
    from fedkd.engine.evaluation.evaluate import Predictor
    from fedkd.engine.run import Run
    from fedkd.experiment.algorithm.client import Client
    from fedkd.experiment.algorithm.node import Node
    from fedkd.experiment.algorithm.server import Server
    from fedkd.experiment.experiment import Experiment


#: Types of hyperparameters that are checked when an experiment is made.
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
#: Beside the type of a tuple: a run-config holds lists as text with commas. One name may stand alone.
Listed = BeforeValidator(lambda given: tuple(filter(None, given.split(","))) if isinstance(given, str) else given)


#: What a strategy may use without needing it, by the names that ``Needs.uses`` has.
USABLE = ("public", "public_labels", "validation", "server_net", "shared_net", "views", "representations", "compared")


@dataclass(frozen=True)
class Needs:
    """What a strategy cannot do without. ``check`` says in one line what an experiment lacks.

    ``uses`` are those of USABLE that make a difference to it beside what it needs; None: unknown. An experiment that sets
    others is told that they do nothing.
    """

    labels: bool = False
    public: bool = False
    validation: bool = False
    equal_nets: bool = False
    server_net: bool = False
    shared_data: bool = False
    uses: tuple[str, ...] | None = None

    def check(self, name: str, experiment: Experiment) -> None:
        """Raise InputError if the experiment does not give what is needed."""
        data = experiment.data
        lacks = {
            "labels: set data.labelled above 0": self.labels and data.labelled == 0,
            "a public set: set data.public to its size": self.public and not (data.public or data.public_source),
            "a labelled validation set: set data.validation to its size": self.validation and not data.validation,
            "the same net at all clients: name one in nets": self.equal_nets and len(experiment.architectures) > 1,
            "the clients' net at the server too: leave server_net away": self.equal_nets
            and experiment.server_net not in ("", *experiment.architectures),
            "a server net: set server_net": self.server_net and not experiment.server_net and not experiment.nets,
            'the same samples at all clients: set data.partition = "shared"': self.shared_data and data.partition != "shared",
        }
        if lack := next((text for text, missing in lacks.items() if missing), ""):
            raise InputError(f"strategy: {name} needs {lack}")

    def __str__(self) -> str:
        return ", ".join(name.replace("_", " ") for name, needed in vars(self).items() if needed is True) or "nothing"


@dataclass(frozen=True)
class Strategy(FlowerStrategy):
    """An algorithm: the paper's client box and server box. Subclasses are final, frozen dataclasses of hyperparameters.

    What two strategies share becomes a function, never a method here.
    """

    paper: ClassVar[str]  # authors, title, venue, number
    sends: ClassVar[str]  # what travels, in words
    needs: ClassVar[Needs] = Needs()
    #: Whether an upload still makes sense a round later: not where it speaks of that round's public samples.
    outlives_its_round: ClassVar[bool] = True
    #: Whether clients' nets are compared on the global test set: agreement, their ensemble. Their logits there are sent.
    compares_clients: ClassVar[bool] = False
    #: Where its fields do nothing, or what ``needs`` names: conditions of ``fedkd.experiment.algorithm.conditions``, by name.
    idle: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType({})

    @abstractmethod
    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """One exchange at one client: what the server said -> what this client answers."""

    @abstractmethod
    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge | Mapping[int, Knowledge]:
        """Uploads by client id, in order -> the next broadcast, one for all or one per client id."""

    @abstractmethod
    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Predictor]:
        """What is evaluated at a client or at the server, by name; the first is the headline. Empty: nothing here."""

    def first_broadcast(self, server: Server) -> Knowledge | Mapping[int, Knowledge]:
        """What clients get before round 1, one for all or one per client id. Default: nothing."""
        return Knowledge()

    def broadcast_again(self, server: Server) -> Knowledge | Mapping[int, Knowledge] | None:
        """What clients get after a broadcast that all failed on. The server is as it was before. Default: what they got then.

        A strategy that broadcasts changes gives the whole here: clients may have taken up the one that is withdrawn.
        """
        return None

    def check(self, experiment: Experiment) -> None:
        """Raise InputError if the experiment does not give what is needed. Default: ``needs``, the same for every setting."""
        self.needs.check(type(self).__name__, experiment)

    def exchanges_per_round(self, experiment: Experiment) -> int:
        """How many down/up trips a round has. Default: one."""
        return 1

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """What this client's upload in ``server.exchange`` must hold. Default: the tensors of its first broadcast."""
        first = self.first_broadcast(server)
        return schema_of(first if isinstance(first, Knowledge) else first[client])

    def check_upload(self, server: Server, upload: Knowledge) -> None:
        """Raise ValueError on an upload that fits the schema and still contradicts itself. Default: none does."""

    def uplink(self, experiment: Experiment) -> tuple[str, ...]:
        """The codecs of uploads. Default: the experiment's."""
        return experiment.uplink

    def downlink(self, experiment: Experiment) -> tuple[str, ...]:
        """The codecs of broadcasts. Default: the experiment's."""
        return experiment.downlink

    # Flower's side. Its hooks are given no server, so a run stands beside the frozen strategy: `start` opens it, or, where
    # Flower's own loop or one of its wrappers calls the hooks, the first of them does.

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord | None = None,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
        should_stop: object = None,
    ) -> Result:
        """Run rounds on any Flower grid, from a ServerApp of your own.

        ``train_config`` holds the experiment's flat keys (``context.run_config``); ``num_rounds`` and ``timeout`` replace its
        own. The first broadcast is the strategy's, unless ``initial_arrays`` (a net's ``state_dict``) replaces its tensors.
        ``evaluate_fn`` gets the arrays of the broadcast each round. ``evaluate_config`` and ``should_stop``, which Flower has
        from 1.43 on, mean nothing here and are refused.

        Raises:
            InputError: what can be known to be wrong before round 1.
            RunFailed: in no round an upload counted, or nothing could be evaluated.
        """
        from fedkd.engine.flower_loop import experiment_of, flower_result
        from fedkd.engine.run import Run

        if evaluate_config:
            raise InputError("evaluate_config: evaluation is part of the experiment: put its keys into train_config")
        if should_stop is not None:
            raise InputError("should_stop: all rounds are run: leave it out and set num_rounds")
        experiment = experiment_of(self, train_config).replace(rounds=num_rounds, timeout=timeout)
        run = Run(experiment, grid, initial_arrays=initial_arrays, on_round=lambda row, _: evaluate(row["round"]))
        scores: dict[int, MetricRecord] = {}

        def evaluate(round: int) -> None:
            found = evaluate_fn(round, run.arrays()) if evaluate_fn else None
            scores.update({round: found} if found is not None else {})

        result = flower_result(run, run.execute())
        result.evaluate_metrics_serverapp.update(scores)
        return result

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        """Flower's hook: the messages of a round. ``config``: the experiment's flat keys; ``arrays``: what to broadcast."""
        from fedkd.engine.flower_loop import open_round

        return open_round(self, server_round, arrays, config, grid)

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Flower's hook: uploads in, the next broadcast's arrays and the clients' mean losses out; None if none counted.

        Raises RunFailed after the config's last round if in no round an upload counted.
        """
        from fedkd.engine.flower_loop import close_training

        return close_training(self._run, server_round, replies)

    def configure_evaluate(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        """Flower's hook: scores the server's predictors, and asks clients to score theirs."""
        return self._run.evaluation_instructions(server_round)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Flower's hook: accuracies, of the server and of the clients."""
        return self._run.absorb_evaluation(server_round, replies)

    def summary(self) -> None:
        """Flower's hook: nothing to log; the run directory holds the experiment."""

    @property
    def _run(self) -> Run:
        from fedkd.engine.flower_loop import current_run

        return current_run(self)
