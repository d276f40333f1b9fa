"""Code that a user names in a file of their own: "my_module:name". Never from a message."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from fedkd.base.errors import InputError, did_you_mean

#: What names may lead to where a message or a run-config says them; None where the user's own words are read.
_GIVEN: ContextVar[Mapping[str, Any] | None] = ContextVar("fedkd_given", default=None)


@contextmanager
def given_only(objects: Mapping[str, Any]) -> Iterator[None]:
    """Inside the block ``"my_module:name"`` leads to one of these objects or is refused: nothing is imported."""
    before = _GIVEN.set(objects)
    try:
        yield
    finally:
        _GIVEN.reset(before)


def names_code(text: object) -> bool:
    """Whether this reads as ``"my_module:name"``.

    >>> names_code("my_module:net"), names_code("C:/runs/teacher"), names_code("cnn")
    (True, False, False)
    """
    module_name, colon, name = str(text).partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module_name.split("."), name))


def import_object(path: str) -> Any:
    """What ``"my_module:name"`` names; modules in the current directory are found first.

    Raises:
        InputError: it names no module, or nothing in that module; or a message says it, and the app was not given it. What the
            module itself raises passes through.
    """
    if (given := _GIVEN.get()) is not None:
        if path in given:
            return given[path]
        raise InputError(f"a config may not name code: pass code= to the app for {path!r}")
    module_name, _, name = path.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), name)):
        raise InputError(f'cannot load {path!r}: write "my_module:name", a module and a name in it')
    try:
        with _current_directory_first():
            _forget_if_changed(module_name)
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


#: The file behind a module of the current directory, when it was changed and its size, as it was when it was imported.
_READ: dict[str, tuple[str, int, int]] = {}


def _forget_if_changed(module_name: str) -> None:
    """Have a module of the current directory imported anew where its file is another, or changed, since a name led to it."""
    place = Path.cwd().joinpath(*module_name.split("."))
    file = next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)
    if file is None:
        return
    now = (str(file.resolve()), file.stat().st_mtime_ns, file.stat().st_size)
    held = sys.modules.get(module_name)
    where = getattr(held, "__file__", None)
    if held is not None and ((where and str(Path(where).resolve()) != now[0]) or _READ.get(module_name, now) != now):
        del sys.modules[module_name]
        Path(importlib.util.cache_from_source(now[0])).unlink(missing_ok=True)  # it tells sources apart by whole seconds
        importlib.invalidate_caches()
    _READ[module_name] = now


@contextmanager
def _current_directory_first() -> Iterator[None]:
    directory = os.getcwd()
    sys.path.insert(0, directory)
    try:
        yield
    finally:
        sys.path.remove(directory)
