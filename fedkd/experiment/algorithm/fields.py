"""Types of a strategy's hyperparameters, which are checked when an experiment is made."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
#: Beside the type of a tuple: a run-config holds lists as text with commas. One name may stand alone.
Listed = BeforeValidator(lambda given: tuple(filter(None, given.split(","))) if isinstance(given, str) else given)
