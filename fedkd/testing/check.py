"""A check: one promise, held against one strategy, net or codec. What it finds is said in one line."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, final

from fedkd.base.errors import Notice


class Broken(AssertionError):
    """A promise that is not kept, in one line."""


@final
@dataclass(frozen=True)
class Check:
    """Call it: nothing happens, or an AssertionError of one line. Its ``__name__`` is what pytest shows."""

    subject: str  # what is checked: "MyMethod"
    name: str
    function: Callable[[], None]

    @property
    def __name__(self) -> str:
        return self.name

    def __call__(self) -> None:
        """Raises AssertionError in one line: the promise, the setting, what was expected and found, where to look."""
        where = f"{self.subject}, {self.name}"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Notice)  # of the small settings of ours, not of the user's
                self.function()
        except Broken as broken:
            raise AssertionError(f"{where}: {_one_line(broken)}") from None
        except Exception as error:  # whatever a user's own code raises
            said = f"expected no error, got {type(error).__name__}: {_one_line(error)}"
            raise AssertionError(f"{where}: {said}; the traceback above is its own") from error


def checks_of(subject: str, functions: tuple[Callable[..., None], ...], *arguments: Any) -> list[Check]:
    """A check for each function of these arguments, named as the function is."""
    return [
        Check(subject, function.__name__, lambda function=function: function(*arguments))  # type: ignore[misc]
        for function in functions
    ]


def fail(found: str, *, expected: str, setting: str, look: str) -> NoReturn:
    """Say that a promise is broken.

    Args:
        found: what came instead.
        expected: what should have.
        setting: in which experiment, or on which input.
        look: where to look for the cause.
    """
    raise Broken(f"expected {expected}, got {found} ({setting}); look at {look}")


def _one_line(error: BaseException) -> str:
    """The message of an error in one line of bounded length."""
    return " ".join(str(error).split())[:600]
