"""Strategy: one file is one algorithm, both halves. It IS a Flower strategy; Flower's hooks are written here, once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result
from flwr.serverapp.strategy import Strategy as FlowerStrategy

from fedkd.base.errors import InputError
from fedkd.experiment.algorithm.algorithm import Algorithm

if TYPE_CHECKING:
    from fedkd.engine.run import Run


@dataclass(frozen=True)
class Strategy(Algorithm, FlowerStrategy):
    """An algorithm that any Flower server can run. Subclasses are final, frozen dataclasses of hyperparameters.

    Flower's hooks are given no server, so a run stands beside the frozen strategy: ``start`` opens it, or, where Flower's own
    loop or one of its wrappers calls the hooks, the first of them does.
    """

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord | None = None,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
        should_stop: Callable[[int, Result], bool] | None = None,
        *,
        nets: Callable[..., Any] | Mapping[str, Callable[..., Any]] | None = None,
        data: Any = None,
        code: Mapping[str, Any] | None = None,
    ) -> Result:
        """Run rounds on any Flower grid, from a ServerApp of your own.

        ``train_config`` holds the experiment's flat keys (``context.run_config``); ``num_rounds`` and ``timeout`` replace its
        own. The first broadcast is the strategy's, unless ``initial_arrays`` (a net's ``state_dict``) replaces its tensors.
        Clients learn all of it from the messages: their run-config need not have it. ``nets``, ``data`` and ``code`` are the
        server's, as ``fedkd.app.server_app`` takes them. ``evaluate_fn`` gets the arrays of the broadcast each round.
        ``should_stop`` (Flower has it from 1.43 on; here it is always there) is called after each round but 0 with its number
        and the Result so far, and ends the run where it says True. ``evaluate_config`` means nothing here and is refused.

        Raises:
            InputError: what can be known to be wrong before round 1.
            RunFailed: in no round an upload counted, or nothing could be evaluated.
        """
        from fedkd.engine.flower_loop import experiment_of, flower_result, told_to_clients
        from fedkd.engine.given import functions_of
        from fedkd.engine.run import Run

        if evaluate_config:
            raise InputError("evaluate_config: evaluation is part of the experiment: put its keys into train_config")
        if should_stop is not None and not callable(should_stop):
            raise InputError(f"should_stop: give a function of a round's number and the Result so far, got {should_stop!r:.50}")
        functions = functions_of(nets, data, type(self), code)
        experiment = experiment_of(self, train_config, functions).replace(rounds=num_rounds, timeout=timeout)
        run = Run(
            experiment,
            grid,
            functions=functions,
            initial_arrays=initial_arrays,
            on_round=lambda row, _: after(row),
            beside=told_to_clients(experiment),
        )
        scores: dict[int, MetricRecord] = {}

        def after(row: dict[str, Any]) -> None:
            round = row["round"]
            score = evaluate_fn(round, run.arrays()) if evaluate_fn else None
            scores.update({round: score} if score is not None else {})
            if should_stop and round and should_stop(round, flower_result(run, run.history, scores)):
                run.stopping.say("should_stop said so", row)

        return flower_result(run, run.execute(), scores)

    def initialize_parameters(self, client_manager: object) -> None:
        """Where Flower's legacy workflows begin, SecAgg+ among them. Raises InputError: none of them can run this."""
        from fedkd.engine.secure_aggregation import refuse_workflow

        refuse_workflow()

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
