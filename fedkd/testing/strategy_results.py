"""What the result of a run may depend on: the seed and nothing else; and what must come of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from fedkd.engine.app import client_app_of
from fedkd.engine.run import Run
from fedkd.engine.run_state import RunState
from fedkd.engine.simulation import simulate
from fedkd.experiment.algorithm import step, train
from fedkd.experiment.algorithm.work import Work
from fedkd.experiment.experiment import Experiment
from fedkd.grids import InProcessGrid
from fedkd.grids.flower import server_identity
from fedkd.methods.peers import apart
from fedkd.results.checkpoint import Checkpoint
from fedkd.results.client_states import ClientStates
from fedkd.results.history import History
from fedkd.testing.backward_grid import BackwardGrid
from fedkd.testing.check import fail
from fedkd.testing.trial import Trial, difference, numbers, said

#: The least derivative that is one.
SMALLEST = 1e-7
#: Of the run in which a strategy must learn: accuracy by chance is 0.1.
LEARNT = 0.2
#: How it is trained there: not every strategy learns from so little by either, and one of them is enough.
OPTIMIZERS = (
    {"optimizer": "adam", "lr": 0.003, "batch_size": 16, "epochs": 3},
    {"optimizer": "sgd", "lr": 0.05, "momentum": 0.9, "batch_size": 16, "epochs": 3},
)


def same_seed_same_result(trial: Trial) -> None:
    """Two runs with one seed agree to the last bit, and one with another seed does not."""
    look = "random draws: take client.rng(purpose) or torch's own functions, which are seeded for each call"
    experiment = trial.experiment()
    if found := difference(trial.history, simulate(experiment, InProcessGrid())):
        fail(found, expected="the same numbers from the same seed", setting=said(experiment), look=look)
    other = trial.experiment(seed=experiment.seed + 1)
    if numbers(simulate(other, InProcessGrid())) == numbers(trial.history):
        found = f"the very numbers of seed {experiment.seed}"
        fail(found, expected="other numbers from another seed", setting=said(other), look="fixed seeds in its code")


def goes_on_from_its_memory_alone(trial: Trial) -> None:
    """Nothing but memory and live values may carry over, from call to call or from client to client."""
    setting = f"{said(trial.experiment())}; clients are asked last to first, each from its stored memory"
    look = "globals and attributes: client.memory and server.memory hold what shall last"
    if found := difference(trial.history, simulate(trial.experiment(), BackwardGrid())):
        fail(found, expected="the numbers of the usual run", setting=setting, look=look)


def resumes(trial: Trial) -> None:
    """A run that goes on from the checkpoint of round 1 ends as one that was never broken off."""
    experiment = trial.experiment()
    checkpoints: list[Checkpoint] = []
    run_from(experiment, None, checkpoints)
    first = next(checkpoint for checkpoint in checkpoints if checkpoint.round == 1)
    rows = [row for row in trial.history.metrics if row["round"] > 1], [r for r in trial.history.clients if r["round"] > 1]
    if found := difference(History(*rows), run_from(experiment, first, [])):
        look = "the server's half: what shall last lies in server.memory, or in server.net(..., keep=True)"
        fail(found, expected="the numbers of the usual run", setting=f"{said(experiment)}; resumed after round 1", look=look)


def run_from(experiment: Experiment, start: Checkpoint | None, checkpoints: list[Checkpoint]) -> History:
    """The rounds after a checkpoint, or all; a checkpoint of each is added to ``checkpoints``."""
    functions, config = experiment.functions(), experiment.to_flat()
    grid = InProcessGrid().open(client_app_of(functions), experiment.data.clients, config)

    def note(row: dict[str, Any], clients: list[dict[str, Any]]) -> None:
        of_clients = {f"client/{client}": memory for client, memory in grid.each_state()}
        checkpoints.append(Checkpoint(row["round"], state.parts() | of_clients, {}))

    with grid, server_identity(), functions.given_only(), ClientStates(None) as states:
        run = Run(Experiment.from_flat(config, functions), grid, functions=functions, on_round=note)
        state = RunState(run, states)
        if start is not None:
            state.restore(start)
        return run.execute()


def every_part_of_the_loss_has_a_gradient(trial: Trial) -> None:
    """A part that moves no parameter is a line that does nothing: detached, or of a net that is not trained."""
    found = gradients(trial)
    if flat := {part: slope for part, slope in found.items() if not slope > SMALLEST}:
        part, slope = next(iter(flat.items()))
        look = f"{part!r} in the loss: what is detached there, and which net the optimiser has"
        setting = said(trial.experiment(rounds=3))
        fail(f"{slope:g} at most", expected=f"a derivative of {part!r} by some weight", setting=setting, look=look)


def gradients(trial: Trial) -> dict[str, float]:
    """By part of the loss, the largest derivative by any parameter that a step moves, until one is above SMALLEST."""
    found: dict[str, float] = {}
    descend, descend_each = step.descend, step.descend_each

    def look(parts: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
        moved = [p for group in optimizer.param_groups for p in group["params"]]
        for part, value in parts.items():
            if found.get(part, 0.0) > SMALLEST:
                continue
            slopes = torch.autograd.grad(value, moved, retain_graph=True, allow_unused=True) if value.requires_grad else ()
            found[part] = max([found.get(part, 0.0), *(float(slope.abs().max()) for slope in slopes if slope is not None)])

    def watched(parts: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, work: Work, **how: int) -> Tensor:
        look(parts, optimizer)
        return descend(parts, optimizer, work, **how)

    def each_watched(tasks: Sequence[tuple[Mapping[str, Tensor], torch.optim.Optimizer]], work: Work) -> Tensor:
        for parts, optimizer in tasks:
            look(parts, optimizer)
        return descend_each(tasks, work)

    with ExitStack() as patches:
        patches.enter_context(patch.object(train, "descend", watched))
        patches.enter_context(patch.object(apart, "descend", watched))
        patches.enter_context(patch.object(apart, "descend_each", each_watched))
        simulate(trial.experiment(rounds=3), InProcessGrid())
    return found


class _Learnt(Exception):
    """There is nothing more to wait for."""


def learns(trial: Trial) -> None:
    """Some rounds on equal clients with much data lead beyond chance, and beyond the state before training."""
    sizes = {"clients": 2, "train_limit": 700, **({"public": 200} if trial.cls.needs.public else {})}
    told = []
    for work in OPTIMIZERS:
        experiment = trial.experiment(partition="iid", probe_epochs=100, rounds=3, train=work, data=sizes, evaluate_every=1)
        reached: list[float] = []

        def watch(row: dict[str, Any], reached: list[float] = reached) -> None:
            reached.append(max(row.get(key, 0.0) for key in ("accuracy", "client_accuracy")))
            if reached[-1] >= LEARNT and reached[-1] > reached[0]:
                raise _Learnt

        try:
            simulate(experiment, InProcessGrid(), on_round=watch)
        except _Learnt:
            return
        told.append(f"{max(reached[1:]):.3f} by {work['optimizer']} after {reached[0]:.3f}")
    expected = f"an accuracy above {LEARNT} and above that before training in some round"
    look = "load(net, broadcast.tensors), the loss, and what server_update returns"
    fail(" and ".join(told), expected=expected, setting=said(experiment), look=look)
