"""The nets of a round whose checkpoint stayed in a run's directory."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fedkd.base.errors import InputError
from fedkd.engine.recording import nets_at
from fedkd.experiment.algorithm.record_section import Record
from fedkd.nets import Net
from fedkd.results import checkpoint
from fedkd.results.directory import CHECKPOINTS
from fedkd.results.recorded import RecordedRun
from fedkd.results.statistics import best_round


def kept_nets(recorded: RecordedRun, wanted: str, frozen: Sequence[Net] = ()) -> tuple[int, dict[str, dict[str, Tensor]]]:
    """The round that is wanted, and the weights of the nets that were there after it, by name.

    Args:
        recorded: the run.
        wanted: a number, or ``"best"``: the best round by the run's ``record.best``.
        frozen: a net of each architecture of which a part is frozen, as no checkpoint has that part.

    Raises:
        InputError: no checkpoint of that round stayed, or it is damaged.
    """
    there = {checkpoint.round_of(place): place for place in checkpoint.places(recorded.path / CHECKPOINTS)}
    best = best_round(recorded.rows, str(recorded.experiment.get("record.best", Record().best)))
    round = best if wanted == "best" else int(wanted) if wanted.isdecimal() else None
    if round not in there:
        kept = f"the checkpoints that stayed are of rounds {', '.join(map(str, sorted(there)))}"
        raise InputError(f"{recorded.path} kept no round {wanted!r}: {kept}, the best by record.best is {best}")
    if why := checkpoint.damage(there[round]):
        raise InputError(f"{there[round]} is damaged ({why}): name another round")
    return round, dict(nets_at(there[round], frozen))
