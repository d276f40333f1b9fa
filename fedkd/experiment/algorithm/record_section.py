"""The [record] section of the experiment file."""

from __future__ import annotations

from pydantic import Field, field_validator

from fedkd.base.errors import InputError, did_you_mean
from fedkd.experiment.algorithm.section import Names, Section

#: Where rows can go beside the run's own files: to tools, or into a file of another form.
SINKS = ("tensorboard", "wandb", "mlflow", "trackio", "parquet")


class Record(Section):
    """What a run's directory keeps beside its rows. It changes nothing that is computed."""

    checkpoints: int = Field(2, ge=1)
    """How many rounds' checkpoints stay in a run's directory: the newest ones. ``checkpoints = 5``"""
    best: str = "accuracy"
    """The key of metrics.jsonl whose best round's checkpoint stays too; losses and divergences are best where they are lowest.
    Empty: only the newest stay. ``best = "client_accuracy"``
    """
    uploads: bool = False
    """Whether every upload is kept as the server read it, and every broadcast, in uploads/, for `fedkd audit` and
    `fedkd replay`. ``uploads = true``
    """
    sinks: Names = ()
    """Where rows go too: tensorboard, wandb (offline), mlflow or trackio, each an extra of fedkd; parquet: the clients' lines.
    ``sinks = ["tensorboard", "parquet"]``
    """

    @field_validator("sinks")
    @classmethod
    def _check_sinks(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for name in given:
            if name not in SINKS:
                raise InputError(f"record.sinks: {name!r} is unknown: {did_you_mean(name, SINKS)}")
        return tuple(dict.fromkeys(given))
