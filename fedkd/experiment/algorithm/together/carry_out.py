"""Trainings of many clients, carried out as one where they agree."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from fedkd.experiment.algorithm.together.alike import Alone
from fedkd.experiment.algorithm.together.fitting import Fitting
from fedkd.experiment.algorithm.together.training import Answer, Training

#: Fewer than so many gain nothing.
FEWEST = 4
#: Weights of so many bytes are in one stack: what a processor's cache holds is worked on fastest.
STACK_BYTES = 4 * 2**20


def carry_out(fittings: Sequence[Fitting]) -> list[Answer]:
    """Train all nets; give for each what ``fit`` returns, the TrainingError that it raises, or Alone: nothing has been done."""
    answers: dict[int, Answer] = {}
    groups: dict[Hashable, list[int]] = {}
    for place, fitting in enumerate(fittings):
        try:
            groups.setdefault(fitting.key(), []).append(place)
        except Alone as reason:
            answers[place] = reason
    for places in groups.values():
        places.sort(key=lambda place: fittings[place].sizes, reverse=True)  # stable
        for part in _parts(places, fittings[places[0]]):
            answers |= zip(part, _together([fittings[place] for place in part]), strict=True)
    return [answers[place] for place in range(len(fittings))]


def _parts(places: list[int], first: Fitting) -> Iterator[list[int]]:
    """As many at a time as make a stack of a good size, shared out evenly."""
    number = max(1, round(len(places) * first.bytes / STACK_BYTES))
    number = min(number, max(1, len(places) // FEWEST))
    for part in range(number):
        yield places[len(places) * part // number : len(places) * (part + 1) // number]


def _together(fittings: Sequence[Fitting]) -> list[Answer]:
    """Of one part of a group."""
    if len(fittings) < FEWEST:
        return [Alone("too few agree in net, loss, settings and data")] * len(fittings)
    try:
        with _contiguous(fittings[0].net):
            training = Training(fittings)
            training.carry_out()
    except Exception as error:  # whatever a loss does that vmap cannot do: nothing is written back yet
        text = str(error) if isinstance(error, Alone) else f"vmap cannot do it ({type(error).__name__}: {_first_line(error)})"
        return [Alone(text)] * len(fittings)
    return training.finish()


@contextmanager
def _contiguous(net: nn.Module) -> Iterator[None]:
    """Inside the block images lie as they come: vmap knows no other memory format."""
    laid = [(part, vars(part)["memory_format"]) for part in net.modules() if "memory_format" in vars(part)]
    for part, _ in laid:
        vars(part)["memory_format"] = torch.contiguous_format
    try:
        yield
    finally:
        for part, before in laid:
            vars(part)["memory_format"] = before


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
