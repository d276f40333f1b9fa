"""The Flower ClientApp and ServerApp that every engine and every deployment runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedkd.base.garbage import old_objects_kept
from fedkd.engine import client_half
from fedkd.engine.given import functions_of
from fedkd.engine.node_memory import recall
from fedkd.engine.shown import shown
from fedkd.experiment.algorithm.algorithm import Algorithm
from fedkd.experiment.algorithm.functions import Functions
from fedkd.experiment.algorithm.loaded import forget_data
from fedkd.experiment.experiment import Experiment
from fedkd.results.progress import OnProgress

#: What sees every message on its way in and out, as Flower has it.
Mod = Callable[[Message, Context, Callable[[Message, Context], Message]], Message]


def client_app(
    *,
    nets: Callable[..., Any] | Mapping[str, Callable[..., Any]] | None = None,
    data: Any = None,
    strategy: type[Algorithm] | None = None,
    code: Mapping[str, Any] | None = None,
    mods: Sequence[Mod] = (),
) -> ClientApp:
    """The ClientApp. Everything but code comes in the run-config; code comes here.

    Args:
        nets: a function (shape, classes) -> net for all clients, or such functions by the names that ``nets`` uses.
        data: what ``data.source`` takes from Python: arrays, a frame, a torch data set, or a function that gives one.
        strategy: a Strategy class of your own.
        code: what else the run-config names as ``"my_module:name"``, by that name: a loss, say.
        mods: Flower's mods, or your own, that see every message on its way in and out.
    """
    return client_app_of(functions_of(nets, data, strategy, code), mods)


def client_app_of(functions: Functions, mods: Sequence[Mod] = ()) -> ClientApp:
    """The ClientApp with this code. A name in a message leads to this code only: nothing is imported by it."""
    app = ClientApp(mods=list(mods))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return client_half.train(message, context, functions)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return client_half.evaluate(message, context, functions)

    @app.query("join")
    def join(message: Message, context: Context) -> Message:
        return client_half.join(message, context, functions)

    app.query("persist")(client_half.persist)
    app.query("recall")(recall)
    return app


def server_app(
    *,
    nets: Callable[..., Any] | Mapping[str, Callable[..., Any]] | None = None,
    data: Any = None,
    strategy: type[Algorithm] | None = None,
    code: Mapping[str, Any] | None = None,
    on_round: Callable[[dict[str, Any]], None] | None = None,
) -> ServerApp:
    """The ServerApp: reads the experiment from the run-config, runs it, writes it to ``out`` if the run-config names one.

    The History stands in the Context that ``run_app`` returns: ``History.read(context.state)``. Code: see ``client_app``.
    """
    return server_app_of(functions_of(nets, data, strategy, code), on_round)


def server_app_of(
    functions: Functions,
    on_round: Callable[[dict[str, Any]], None] | None = None,
    on_progress: OnProgress | None = None,
) -> ServerApp:
    """The ServerApp with this code. ``on_progress`` hears how far a round is; a deployment prints it."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        from fedkd.engine.recording import run_recorded

        experiment = Experiment.from_flat(context.run_config, functions)
        out, resume = str(context.run_config.get("out", "")), bool(context.run_config.get("resume", False))
        try:
            with functions.given_only(), old_objects_kept(), shown(experiment, grid, out) as show:

                def note(row: dict[str, Any]) -> None:
                    show.row(row)
                    if on_round:
                        on_round(row)

                look = on_progress or show.progress
                history = run_recorded(
                    experiment, grid, functions=functions, out=out, resume=resume, on_round=note, on_progress=look
                )
        finally:
            forget_data()
        history.write(context.state)

    return app
