"""The sections of the experiment file: local training, data, engine. Frozen and validated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from fedkd.base.errors import InputError, unknown
from fedkd.experiment.algorithm.schedule import rate_at

#: Names in a list, of which one may stand alone: ``uplink = "float16"``.
Names = Annotated[tuple[str, ...], BeforeValidator(lambda given: (given,) if isinstance(given, str) else given)]
#: Shares in a list, of which one may stand alone: ``label_shares = 0.01``.
Shares = Annotated[
    tuple[Annotated[float, Field(gt=0, le=1)], ...],
    BeforeValidator(lambda given: (given,) if isinstance(given, int | float) else given),
]
FROZEN = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Section(BaseModel):
    """What the experiment and its sections have in common: frozen, no unknown keys, no true or false for a number."""

    model_config = FROZEN

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_truth_values(cls, given: object, info: ValidationInfo) -> object:
        if isinstance(given, bool) and cls.model_fields[str(info.field_name)].annotation in (int, float):
            raise ValueError("a number belongs here")  # `rounds = true` would be one round
        return given


class Training(Section):
    """Local training, the same words for every strategy."""

    epochs: int = Field(1, ge=1)
    batch_size: int = Field(64, ge=1)
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = Field(0.01, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(1e-5, ge=0)
    schedule: Literal["constant", "cosine", "step"] = "constant"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    warm_up: int = Field(0, ge=0)
    clip: float = Field(0.0, ge=0)
    precision: Literal["fp32", "bf16"] = "fp32"

    def lr_at(self, round: int, rounds: int) -> float:
        """The learning rate of a round, counted from 1, of ``rounds``."""
        return self.lr * rate_at(self.schedule, round, rounds, self.warm_up, self.milestones, self.gamma)


class Data(Section):
    """Which images, and who holds them. Arguments of the partition stand beside it, as extra keys."""

    model_config = ConfigDict(extra="allow")
    source: str | Callable[[], Any] = "digits"
    path: str = ""
    layout: str = ""
    channels: Literal["", "grey", "colour"] = ""
    image_column: str = ""
    label_column: str = ""
    natural_column: str = ""
    clients: int = Field(10, ge=1)
    partition: str = "dirichlet"
    client_test: float = Field(0.2, ge=0, lt=1)
    public: int = Field(0, ge=0)
    public_labels: bool = False
    public_source: str = ""
    validation: int = Field(0, ge=0)
    labelled: float = Field(1.0, ge=0, le=1)
    train_limit: int = Field(0, ge=0)
    test_limit: int = Field(0, ge=0)
    views: str = "fedx"
    split_seed: int = Field(-1, ge=-1)

    @field_validator("source", mode="before")
    @classmethod
    def _as_name_or_function(cls, given: object) -> object:
        from fedkd.data.source import Given, Source

        if isinstance(given, Path):
            return str(given if given.is_absolute() else Path.cwd() / given)
        if isinstance(given, Source):
            return Given(given)
        if not isinstance(given, str) and not callable(given):
            kind = type(given).__name__
            raise InputError(f"data.source: give a name, a path, or a function that returns a fedkd.data.Source; got {kind}")
        return given

    @property
    def arguments(self) -> dict[str, Any]:
        """The partition's own arguments."""
        given = dict(self.model_extra or {})
        return given or ({"alpha": 0.5} if self.partition == "dirichlet" else {})

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        from fedkd.data.partition import check_partition
        from fedkd.data.views import PRESETS

        check_partition(self.partition, self.arguments, known=type(self).model_fields, clients=self.clients)
        if self.views not in PRESETS:
            raise unknown("data.views", self.views, PRESETS)
        return self


class Evaluation(Section):
    """What is said of representations beside the linear probe on all labels and the nearest neighbours."""

    label_shares: Shares = (0.01, 0.1)
    fine_tune_epochs: int = Field(0, ge=0)
    pictured: int = Field(0, ge=0)
    compared: int = Field(256, ge=0)

    @model_validator(mode="after")
    def _check_numbers(self) -> Self:
        if len(set(self.label_shares)) < len(self.label_shares):
            raise InputError(f"evaluation.label_shares: {list(self.label_shares)} names a share twice: name each once")
        if self.compared == 1:
            raise InputError("evaluation.compared: one image is compared to none: set it to 0, or to 2 or more")
        return self


class Faults(Section):
    """Simulated failures, drawn by the seed for each client and round; each is a probability."""

    dropout: float = Field(0.0, ge=0, le=1)
    straggle: float = Field(0.0, ge=0, le=1)
    crash: float = Field(0.0, ge=0, le=1)
    nan: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _check_sum(self) -> Self:
        if sum(vars(self).values()) > 1:
            raise InputError("faults: the probabilities sum to more than 1: lower them")
        return self


class Attacking(Section):
    """Which share of the clients, drawn by the seed, attacks, and how."""

    name: str = ""
    share: float = Field(0.0, ge=0, le=1)
    scale: float = Field(1.0, gt=0)

    @model_validator(mode="after")
    def _check_name(self) -> Self:
        if self.name:
            from fedkd.knowledge.attacks import ATTACKS

            if self.name not in ATTACKS:
                raise unknown("attack.name", self.name, ATTACKS)
        return self


class Privacy(Section):
    """Clipping and Gaussian noise on every table of probabilities that a client uploads, and nothing exact beside them.

    A noise of 0 is off. What may not be noised so is refused: see ``fedkd.experiment.protection``.
    """

    noise_multiplier: float = Field(0.0, ge=0)
    clip: float = Field(1.0, gt=0)
    delta: float = Field(1e-5, gt=0, lt=1)

    @property
    def noise(self) -> str:
        """How much noise on which norm, in words; empty where it is off."""
        return f"{self.noise_multiplier:g} x {self.clip:g}" if self.noise_multiplier else ""


class Guarding(Section):
    """How far one upload may stand out from the others of its round before it is refused; 0 is off.

    ``weight_ratio``: a claimed weight over the round's median; where the clients' sizes are known, as in a simulation, a
    claim is held against them instead. ``step_ratio``: how far a client moved the weights that it was sent, over the median.
    """

    weight_ratio: float = Field(10.0, ge=0)
    step_ratio: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _check_ratios(self) -> Self:
        for name, ratio in vars(self).items():
            if 0 < ratio < 1:
                raise InputError(
                    f"guard.{name}: {ratio:g} times the median refuses the median itself: set it to 1 or more, or 0"
                )
        return self


class Engine(Section):
    """Where the clients run."""

    name: Literal["in-process", "ray"] = "in-process"
    actors: int = Field(2, ge=1)
    num_cpus: int = Field(1, ge=1)
    num_gpus: float = Field(0.0, ge=0)
    address: str = ""


#: Section of the file -> its model.
SECTIONS: dict[str, type[BaseModel]] = {
    "train": Training,
    "data": Data,
    "evaluation": Evaluation,
    "faults": Faults,
    "attack": Attacking,
    "privacy": Privacy,
    "guard": Guarding,
    "engine": Engine,
}
