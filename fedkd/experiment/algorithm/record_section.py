"""The [record] section of the experiment file."""

from __future__ import annotations

from pydantic import Field

from fedkd.experiment.algorithm.section import Section


class Record(Section):
    """What a run's directory keeps beside its rows. It changes nothing that is computed."""

    checkpoints: int = Field(2, ge=1)
    """How many rounds' checkpoints stay in a run's directory: the newest ones. ``checkpoints = 5``"""
    best: str = "accuracy"
    """The key of metrics.jsonl whose best round's checkpoint stays too; losses and divergences are best where they are lowest.
    Empty: only the newest stay. ``best = "client_accuracy"``
    """
    uploads: bool = False
    """Whether every upload is kept as the server read it, in uploads/, for `fedkd audit`. ``uploads = true``"""
