"""Recipe: a loss's name in an experiment's file becomes a distiller by it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, final

from fedkd.base.errors import InputError, did_you_mean
from fedkd.losses.distillers.distiller import Distiller, Pairing

#: What a loss may need beside the student: outputs of the teacher, and what must be known of the samples or kept over steps.
NEEDS = ("logits", "features", "maps", "labels", "inputs", "whole batch", "memory")


@final
@dataclass(frozen=True)
class Recipe:
    """How a loss becomes a distiller.

    Args:
        loss: a function or module class of ``fedkd.losses``; its keyword-only parameters are the options.
        build: ``build(loss with its options, pairing)``.
        needs: names of ``NEEDS``. "logits", "features", "maps": what is asked of the teacher (and of the student, whose logits
            are always there); "whole batch": the loss relates samples to each other, so a batch cut in two gives another value;
            "inputs": gradients by them, so nothing can be computed beforehand.
        weight: what the official code, or RepDistiller, multiplies it by beside a cross-entropy of weight 1.
        raw: whether it compares logits themselves, not the predictions that they make.
    """

    loss: Callable[..., Any]
    build: Callable[[Callable[..., Any], Pairing], Distiller]
    needs: frozenset[str]
    weight: float = 1.0
    raw: bool = False

    def make(self, pairing: Pairing) -> Distiller:
        """The distiller of this student and teacher, with fresh connectors from torch's global generator."""
        return self.build(partial(self.loss, **self.settings(pairing.temperature, pairing.options)), pairing)

    @property
    def option_names(self) -> list[str]:
        """The loss's keyword-only parameters."""
        return list(_keyword_only(self.loss))

    def settings(self, temperature: float, options: Mapping[str, Any]) -> dict[str, Any]:
        """The keyword arguments for the loss: the temperature, if it softens a teacher's logits by one, and the options.

        Raises:
            InputError: an option that the loss has not.
        """
        known = self.option_names
        for name in options:
            if name not in known:
                raise InputError(f"{self.loss.__name__} has no option {name!r}: {did_you_mean(name, known)}")
        softens = "logits" in self.needs and "temperature" in known  # others divide cosines or activations by theirs
        return {**({"temperature": temperature} if softens else {}), **options}


@cache
def _keyword_only(function: Callable[..., Any]) -> tuple[str, ...]:
    """Looked for once: peers ask at each exchange."""
    parameters = inspect.signature(function).parameters.values()
    return tuple(parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY)
