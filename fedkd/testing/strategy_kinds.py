"""What a strategy owes to samples that are no images."""

from __future__ import annotations

from fedkd.base.errors import InputError, RunFailed
from fedkd.engine.simulation import simulate
from fedkd.grids import InProcessGrid
from fedkd.testing.check import fail
from fedkd.testing.kinds_of_samples import LITTLE
from fedkd.testing.strategy_rounds import all_answered, has_loss
from fedkd.testing.trial import Trial, said


def works_with_samples_of_every_kind(trial: Trial) -> None:
    """Vectors, signals and texts too. What it cannot use, images needed or a net without maps, is refused before round 1."""
    for kind in LITTLE:
        works_with(trial, kind)


def works_with(trial: Trial, kind: str) -> str:
    """One round on little data of this kind.

    Returns:
        the line that refused them before round 1; empty where they were used.
    """
    try:
        experiment = trial.of_kind(kind)
        history = simulate(experiment, InProcessGrid())
    except InputError as refusal:
        return str(refusal)
    except RunFailed as failed:
        expected = "them to be used, or refused before round 1"
        fail(str(failed), expected=expected, setting=kind, look="batch.inputs, and needs: Needs(images=True)")
    all_answered(history, experiment)
    has_loss(history, experiment)
    if failures := history.metrics[-1].get("evaluation_failures"):
        fail(str(failures), expected="every client to be evaluated", setting=f"{kind}, {said(experiment)}", look="predictors")
    return ""
