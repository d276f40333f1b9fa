"""A run on disk: rows as they come, a checkpoint a round, and going on from the last one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid
from torch import Tensor

from fedkd.base.errors import InputError, Notice
from fedkd.engine.node_memory import draw_number, recall_all
from fedkd.engine.room_for_states import say_room
from fedkd.engine.run import Run
from fedkd.engine.run_state import RunState
from fedkd.experiment.algorithm.functions import Functions
from fedkd.experiment.algorithm.record_section import Record
from fedkd.experiment.experiment import Experiment
from fedkd.grids.jobs import JobGrid
from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.memory import Memory
from fedkd.knowledge.records import from_records
from fedkd.nets import Net, completed
from fedkd.results import checkpoint
from fedkd.results.changes import refuse_changed
from fedkd.results.client_states import ClientStates
from fedkd.results.data import RecordedData
from fedkd.results.directory import CHECKPOINTS, RunDirectory
from fedkd.results.history import History
from fedkd.results.identity import Identity, code_of, refuse_other
from fedkd.results.latest import point_at
from fedkd.results.logs import CLIENTS, read_clients, read_metrics
from fedkd.results.place import only_writer, refuse_if_taken, refuse_without_run
from fedkd.results.progress import OnProgress, Progress, ProgressFile
from fedkd.results.sinks.sink import About, Sinks, check_sinks
from fedkd.results.statistics import best_round
from fedkd.results.stored_states import states_after


def run_recorded(
    experiment: Experiment,
    grid: Grid,
    *,
    functions: Functions,
    out: str = "",
    resume: bool = False,
    on_round: Callable[[dict[str, Any]], None] | None = None,
    on_progress: OnProgress | None = None,
) -> History:
    """Run an experiment on a grid; with ``out``, into that directory; with ``resume``, from its last checkpoint on.

    ``on_round`` hears each row, ``on_progress`` how far a round is.

    Raises:
        InputError: what can be known to be wrong before round 1, before anything is written.
        RunFailed: the run has nothing to show. Its rows and checkpoints stay in ``out``, without final nets or a report.
    """
    keeps = experiment.record
    number = "" if resume or isinstance(grid, JobGrid) else draw_number()
    if not out:
        refuse_without_directory(keeps)
        return _run_unrecorded(experiment, grid, functions, number, on_round, on_progress)

    def record(row: dict[str, Any], clients: list[dict[str, Any]]) -> None:
        if run.metrics.representations:
            classes = run.server.federation.source.classes
            directory.save_representations(row["round"], run.metrics.representations, classes)
        if run.metrics.uploads:
            directory.save_uploads(row["round"], run.metrics.uploads)
        directory.append(row, clients, run.metrics.flow)
        best = best_round(run.history.metrics, keeps.best) if keeps.best else None
        also = [] if best is None else [best]
        holders = state.seal(row["round"], directory.rounds_kept())
        directory.save_checkpoint(row["round"], state.parts(), clients=holders, keep=keeps.checkpoints, also=also)
        sinks.write(row, clients)
        if on_round:
            on_round(row)
        if row["round"]:  # not before a round is shown: drawing takes a second
            directory.draw_partition(now.data, run.server.federation.partition_table())

    path = Path(out)
    check_sinks(keeps.sinks)
    (refuse_without_run if resume else refuse_if_taken)(path)
    run = Run(experiment, grid, functions=functions, on_round=record, reasons=str(path / CLIENTS), number=number)
    now, beside = identity_of(run.experiment, functions), ProgressFile(path)

    def look(progress: Progress) -> None:
        beside.write(progress)
        if on_progress:
            on_progress(progress)

    run.transport.on_progress = look
    with only_writer(path), ClientStates(path / CHECKPOINTS) as states:
        state = RunState(run, states)
        directory = _taken_up(run, path, now, state) if resume else _begun(run, functions, path, now, state)
        point_at(path)
        try:
            with Sinks(keeps.sinks, About(path, run.experiment.to_flat(), run.done)) as sinks:
                history = run.execute()
            tell_of_no_best(keeps.best, history)
            directory.finish(final_nets(run))
        except BaseException:
            directory.discard_unstarted()
            raise
        finally:
            beside.remove()
    return history


def _run_unrecorded(
    experiment: Experiment,
    grid: Grid,
    functions: Functions,
    number: str,
    on_round: Callable[[dict[str, Any]], None] | None,
    on_progress: OnProgress | None,
) -> History:
    """A run of which nothing stays. What its clients keep lies in memory, and what has no room there in a temporary file."""

    def note(row: dict[str, Any], clients: list[dict[str, Any]]) -> None:
        state.pass_on()
        if on_round:
            on_round(row)

    run = Run(experiment, grid, functions=functions, on_round=note, number=number)
    run.transport.on_progress = on_progress
    with ClientStates(None) as states:
        state = RunState(run, states)
        run.prepare()
        say_room(run, functions, states.folder)
        state.begin()
        return run.execute()


def tell_of_no_best(metric: str, history: History) -> None:
    """A Notice where no round was measured by what the best is chosen by."""
    if metric not in ("", "accuracy") and best_round(history.metrics, metric) is None:
        text = f"record.best: {metric!r} was never measured, so no round's checkpoint was kept as the best"
        warnings.warn(text, Notice, stacklevel=3)


def refuse_without_directory(keeps: Record) -> None:
    """Raise InputError where an experiment keeps what only a run's directory can hold."""
    if keeps.uploads:
        raise InputError("record.uploads: uploads are kept in a run's directory: name one with out, or set it to false")
    if keeps.sinks:
        raise InputError("record.sinks: they go with a run's directory: name one with out, or leave them away")


def identity_of(experiment: Experiment, functions: Functions) -> Identity:
    """What makes a run of this experiment, here and now, that run and no other."""
    named = [value for value in vars(experiment.strategy).values() if isinstance(value, str)]
    losses = {name: recipe for name, recipe in functions.losses.items() if name in named}  # others are there, and not used
    code = code_of(replace(functions, losses=losses))
    return Identity(experiment.to_toml(), RecordedData.of(experiment.run_federation), code)


def _begun(run: Run, functions: Functions, path: Path, now: Identity, state: RunState) -> RunDirectory:
    """The directory of a new run. It is made when all that can be checked before round 1 has been."""
    run.prepare()
    say_room(run, functions, path, run.experiment.record)
    directory = RunDirectory.create(path, now)
    state.begin()
    return directory


def _taken_up(run: Run, path: Path, now: Identity, state: RunState) -> RunDirectory:
    """The directory of an unfinished run, and the run where its last checkpoint left it."""
    directory = RunDirectory.find(path)
    refuse_changed(path, run.experiment, directory.changed(now))
    refuse_other(path, now)
    state.restore(directory.load_checkpoint())
    run.prepare()
    if not run.transport.simulated:
        recall_all(run.transport, run.server.clients, run.done)
    directory.take_up(now)
    run.history = History(read_metrics(path), read_clients(path))
    return directory


def final_nets(run: Run) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The nets at the end by name: the global one where one is broadcast, those that server and clients keep, one at a time."""
    states = run.transport.grid.each_state() if isinstance(run.transport.grid, JobGrid) else iter(())
    memories = ((f"client-{node}", Memory.read(state)) for node, state in states)
    return nets_among(run.broadcasts.common, chain([("server", run.server.memory)], memories), run.server.frozen_nets())


def nets_at(place: Path, frozen: Sequence[Net]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The same after a round, of its checkpoint. ``frozen``: a net of each architecture of which a part is frozen."""
    found = checkpoint.load(place)
    parts = ((key.replace("/", "-"), part) for key, part in found.parts.items() if key == "server" or key.startswith("client/"))
    stored = ((f"client-{client}", state) for client, state in states_after(place.parent, found.round)) if found.clients else ()
    memories = ((owner, Memory.read(records)) for owner, records in chain(parts, stored))
    return nets_among(from_records(found.parts["broadcast"]), memories, frozen)


def nets_among(
    common: Knowledge, memories: Iterable[tuple[str, Memory]], frozen: Sequence[Net]
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The weights that are broadcast, and those in memories; what is frozen in them, and so nowhere kept, is put in."""

    def whole(state: dict[str, Tensor]) -> dict[str, Tensor]:
        for net in frozen:
            state = completed(state, net.whole_state(), net.left_out)
        return state

    if weights := {name: tensor for name, tensor in common.tensors.items() if common.spaces[name] == "weights"}:
        yield "global", whole(weights)
    for owner, memory in memories:
        for name in {key.split("/")[1] for key in memory if key.startswith("net/")}:
            yield f"{owner}-{name}", whole(memory.under(f"net/{name}/"))
