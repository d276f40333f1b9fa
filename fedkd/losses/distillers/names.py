"""Types for the fields of strategies that name a loss, and a loss by name where only logits are at hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated

from pydantic import AfterValidator
from torch import Tensor

from fedkd.base.errors import InputError
from fedkd.losses.distillers.registry import DISTILLERS, recipe_named


def _known(name: str) -> str:
    recipe_named(name)
    return name


def _on_logits_alone(name: str) -> str:
    if beyond := recipe_named(name).needs - {"logits", "whole batch"}:
        fitting = sorted(other for other, recipe in DISTILLERS.items() if not recipe.needs - {"logits", "whole batch"})
        what = " and ".join(sorted(beyond))
        raise InputError(f"loss {name!r} needs {what}, and only logits are exchanged here: take one of {', '.join(fitting)}")
    return name


#: A field that takes any name of DISTILLERS.
LossName = Annotated[str, AfterValidator(_known)]
#: A field that takes the names of those which need nothing but logits.
LogitLossName = Annotated[str, AfterValidator(_on_logits_alone)]
#: The losses that compare logits with one target made of all teachers, and those of them that have a temperature.
ON_LOGITS = tuple(name for name, recipe in DISTILLERS.items() if not recipe.needs & {"features", "maps", "inputs"})
SOFTENED = tuple(name for name in ON_LOGITS if "temperature" in DISTILLERS[name].option_names)


def logit_loss(name: str, *, temperature: float) -> Callable[[Tensor, Tensor], Tensor]:
    """A loss of logits (B, C) and a teacher's (B, C), by its name in ``DISTILLERS``; a temperature where it has one.

    Raises:
        InputError: an unknown loss, or one that needs more than logits.

    >>> import torch
    >>> student, teacher = torch.zeros(1, 2), torch.tensor([[0.0, 3.0]]).log1p()
    >>> round(logit_loss("kd", temperature=1.0)(student, teacher).item(), 4)
    0.1927
    """
    recipe = recipe_named(_on_logits_alone(name))
    return partial(recipe.loss, **recipe.settings(temperature, {}))
