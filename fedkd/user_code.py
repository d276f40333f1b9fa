"""Code that a user names in a file of their own: "my_module:name". Never from a message."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fedkd.errors import InputError, did_you_mean


def import_object(path: str) -> Any:
    """What ``"my_module:name"`` names; modules in the current directory are found first.

    Raises:
        InputError: it names no module, or nothing in that module. What the module itself raises passes through.
    """
    module_name, _, name = path.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), name)):
        raise InputError(f'cannot load {path!r}: write "my_module:name", a module and a name in it')
    try:
        with _current_directory_first():
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there; something that it imports is not
        raise InputError(f"cannot load {path!r}: no module {module_name!r} here or among the installed ones") from None
    if name not in vars(module):
        known = [key for key, value in vars(module).items() if callable(value)]
        raise InputError(f"cannot load {path!r}: the module has no {name!r}: {did_you_mean(name, known)}")
    return vars(module)[name]


def path_of(value: Any) -> str:
    """The ``"my_module:name"`` under which ``import_object`` finds this very function or class; empty where it would not."""
    module = getattr(value, "__module__", "")
    name = getattr(value, "__qualname__", "")
    found = vars(sys.modules[module]).get(name) if module in sys.modules else None
    return f"{module}:{name}" if found is value and module != "__main__" else ""


@contextmanager
def _current_directory_first() -> Iterator[None]:
    directory = os.getcwd()
    sys.path.insert(0, directory)
    try:
        yield
    finally:
        sys.path.remove(directory)
