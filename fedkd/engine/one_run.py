"""One run of an experiment in this process, on an engine of ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedkd.engine.app import client_app_of, server_app_of
from fedkd.engine.begun import begun
from fedkd.engine.unused_messages import tell_idle_messages
from fedkd.experiment.algorithm.loaded import forget_data
from fedkd.experiment.experiment import Experiment
from fedkd.experiment.registry import name_of
from fedkd.experiment.unused import given_keys, tell
from fedkd.experiment.unused_keys import idle_engine
from fedkd.grids import JobGrid, run_app
from fedkd.results.history import History
from fedkd.results.round_lines import Display


def run_once(
    experiment: Experiment,
    engine: str | JobGrid | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    on_round: Callable[[dict[str, Any]], None] | None = None,
    progress: bool | Display = False,
) -> History:
    """``fedkd.simulate`` of one seed, whose words these are."""
    forget_data()
    code = experiment.functions()
    config = experiment.to_flat() | {"out": str(out or ""), "resume": resume}
    with begun(engine or experiment.engine.name, experiment) as grid, _display(progress, experiment) as display:
        tell_what_is_idle(experiment, engine)
        if experiment.clients_are_here:  # else each is at its node of the grid
            Experiment.from_flat(config, code).federation()

        def note(row: dict[str, Any]) -> None:
            display.row(row)
            if on_round:
                on_round(row)

        context = run_app(
            server_app_of(code, note, display.progress),
            client_app_of(code),
            num_supernodes=experiment.data.clients,
            run_config=config,
            grid=grid,
        )
    return History.read(context.state)


def _display(progress: bool | Display, experiment: Experiment) -> Display:
    if isinstance(progress, Display):
        return progress
    from fedkd.results.live_table import display

    title = f"{name_of(type(experiment.strategy))}: {experiment.data.clients} clients, seed {experiment.seed}"
    return display(title, experiment.rounds) if progress else Display()


def tell_what_is_idle(experiment: Experiment, engine: object = None) -> None:
    """Tell of what does nothing, as far as only data, nets and engine show it; see ``fedkd.experiment.unused``.

    Raises:
        InputError: for the first one that the user set.
    """
    if engine is None:
        tell(experiment, given_keys(experiment, None), idle_engine(experiment))
    tell_idle_messages(experiment)
