"""What the experiment and its sections have in common: frozen, no unknown keys, one value where a list of one is meant.

A key's meaning stands below it, with an example at its end: ``fedkd keys`` and the docs print it.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from fedkd.base.errors import InputError, did_you_mean
from fedkd.base.user_code import names_code

#: Names in a list, of which one may stand alone: ``uplink = "float16"``.
Names = Annotated[tuple[str, ...], BeforeValidator(lambda given: (given,) if isinstance(given, str) else given)]
#: Shares in a list, of which one may stand alone: ``label_shares = 0.01``.
Shares = Annotated[
    tuple[Annotated[float, Field(gt=0, le=1)], ...],
    BeforeValidator(lambda given: (given,) if isinstance(given, int | float) else given),
]
#: A number of passes, whole ones as whole numbers.
Epochs = Annotated[float, Field(gt=0), AfterValidator(lambda given: int(given) if given == int(given) else given)]
OPTIMIZERS = ("sgd", "adam", "adamw")


def _optimizer(given: str) -> str:
    if given not in OPTIMIZERS and not names_code(given):
        raise InputError(f'train.optimizer: {given!r} is unknown: {did_you_mean(given, OPTIMIZERS)}; or "my_module:optimizer"')
    return given


#: An optimiser of torch, or a user's function that makes one.
OptimizerName = Annotated[str, AfterValidator(_optimizer)]
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
