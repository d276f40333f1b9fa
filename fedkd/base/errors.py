"""Errors that a user caused and can cure: one line that names what, where and the cure."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any


class InputError(ValueError):
    """Bad input. Its message is one line; the command line prints it and exits with 2."""


class TrainingError(RuntimeError):
    """Training went wrong at a named client, round and batch, for instance a loss that is not finite."""


class RunFailed(RuntimeError):
    """A run went to its end, or could not go on, and has nothing to show. One line; the command line exits with 1.

    ``history`` holds the rows until then, a ``fedkd.History`` whose ``clients`` have every reason.
    """

    def __init__(self, message: str, history: Any = None) -> None:
        super().__init__(message)
        self.history = history


class Notice(UserWarning):
    """Something that is done for the user, or left out, and that they should know: one line, nothing is wrong with the run."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The cure for a mistyped name: the nearest known one, or all of them where none is near.

    >>> did_you_mean("resnet", ["mlp", "cnn", "resnet18"]), did_you_mean("vit", ["mlp", "cnn"])
    ("did you mean 'resnet18'?", 'known are cnn, mlp')
    """
    names = sorted(known)
    near = get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names) or 'none'}"


def unknown(what: str, name: str, known: Iterable[str], *, cure: str = "") -> InputError:
    """The error for a name that is none of the known ones.

    >>> print(unknown("data.partition", "dirchlet", ["iid", "dirichlet"]))
    unknown data.partition 'dirchlet': did you mean 'dirichlet'?
    """
    return InputError(f"unknown {what} {name!r}: {did_you_mean(name, known)}{cure}")


@contextmanager
def under(key: str) -> Iterator[None]:
    """Name the key in front of an InputError of the block."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{key}: {error}") from None


@contextmanager
def hold_notices() -> Iterator[None]:
    """Hold the Notices of the block back until it has ended well: an error is said alone."""
    with warnings.catch_warnings(record=True) as held:
        warnings.simplefilter("always", Notice)
        yield
    for each in held:
        warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
