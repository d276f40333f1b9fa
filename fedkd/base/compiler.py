"""torch's compiler, which stays away from a process that compiles nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

COMPILER = "torch._dynamo"
#: Methods of every optimiser that the compiler leaves alone. To be told so it is loaded at the first call, which takes 2 s.
_LEFT_ALONE = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
#: A client that has less time than this, in seconds, is not to wait for the compiler: it is loaded before.
SHORT_SECONDS = 60.0
#: Where torch keeps, at such a method, what is called in its place.
_STAND_IN = "__dynamo_disable"


@cache
def leave_compiler_out() -> None:
    """From now on a process's first optimiser does not load torch's compiler.

    Once something else loads it, torch's own way is taken again; before that there is nothing that could compile. A torch
    that is made in another way is left as it is.
    """
    from torch.optim import Optimizer

    for name in _LEFT_ALONE:
        method = getattr(Optimizer, name)
        plain = vars(method).get("__wrapped__")
        if plain is not None and COMPILER not in sys.modules:
            vars(plain)[_STAND_IN] = _until_loaded(method, plain)


def load_compiler_where_time_is_short(timeout: float | None) -> None:
    """Load the compiler now where a client has at most ``timeout`` seconds and these are few: its code may yet need it.

    ``step`` of an optimiser loads it too, which our training goes round and a user's own may not.
    """
    if timeout is not None and timeout < SHORT_SECONDS and "torch" in sys.modules:
        import_module(COMPILER)


def _until_loaded(method: Callable[..., Any], plain: Any) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        if COMPILER not in sys.modules:
            return plain(*arguments, **named)
        vars(plain).pop(_STAND_IN, None)
        return method(*arguments, **named)

    return call
