"""Functions: the code of an experiment. It is given from Python or named in a user's own file, never in a message."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fedkd.base.user_code import given_only, names_code

if TYPE_CHECKING:
    from fedkd.losses.distillers import Recipe


@dataclass(frozen=True, eq=False)
class Functions:
    """What a user gives from Python and no message can name.

    Nets by name, the data, the strategy; ``code``: what else the experiment names as ``"my_module:name"``, such as a loss;
    ``losses``: recipes that were added to ``fedkd.losses.distillers.DISTILLERS``, which other processes lack.
    """

    nets: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    data: Any = None  # the data, or a function that gives them
    strategy: type | None = None
    code: Mapping[str, Any] = field(default_factory=dict)
    losses: Mapping[str, Recipe] = field(default_factory=dict)
    #: What a run finds out about its nets' functions: whether the nets of one have tensors in common, and what stays frozen.
    found: dict[Any, Any] = field(default_factory=dict, repr=False)

    def given_only(self) -> AbstractContextManager[None]:
        """Inside the block names lead to these and to no import; the losses are known by their names."""
        if self.losses:
            from fedkd.losses.distillers import DISTILLERS  # only here: that imports sixty losses

            DISTILLERS.update(self.losses)
        return given_only({**self.nets, **self.code})


def named_code(value: object) -> Iterator[str]:
    """Every ``"my_module:name"`` in a value, however deep."""
    if isinstance(value, str) and names_code(value):
        yield value
    elif isinstance(value, Mapping):
        yield from (name for inner in value.values() for name in named_code(inner))
    elif isinstance(value, tuple | list):
        yield from (name for inner in value for name in named_code(inner))
