"""Where a run is written: a directory that is free for it, and that nobody else writes into meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedkd.base.errors import InputError
from fedkd.results import lock
from fedkd.results.files import writing
from fedkd.results.identity import EXPERIMENT


def refuse_if_taken(path: Path) -> None:
    """Raise InputError unless ``path`` is free for a new run: missing, or an empty directory."""
    with _as_directory(path):
        if path.is_dir() and not set(os.listdir(path)) - {lock.FILE}:
            return
        if (path / EXPERIMENT).exists():
            cure = f"go on with `fedkd resume {path}`, or give another directory with --out"
            raise InputError(f"{path} already holds a run: {cure}")
        if path.exists():
            kind = "a directory with other files" if path.is_dir() else "a file"
            raise InputError(f"{path} is {kind}: give a new or empty directory with --out")
        if any(above.exists() and not above.is_dir() for above in path.parents):
            raise InputError(f"{path} lies below a file: give another directory with --out")


def holds_run(path: Path) -> bool:
    """Whether a run was written into this directory."""
    with _as_directory(path):
        return (path / EXPERIMENT).is_file()


def refuse_without_run(path: Path) -> None:
    """Raise InputError unless ``path`` holds a run."""
    if not holds_run(path):
        raise InputError(f"{path} holds no run (it has no experiment.toml): give the directory of a run")


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Be the only one to write into a run's directory, which is made where it is missing and removed where it stays empty.

    Raises InputError where another run writes there, or where it cannot be made.
    """
    made = not path.exists()
    with writing(path, InputError):
        path.mkdir(parents=True, exist_ok=True)
    try:
        with lock.locked(path):
            yield
    finally:
        if made and path.is_dir() and not any(path.iterdir()):
            path.rmdir()


@contextmanager
def _as_directory(path: Path) -> Iterator[None]:
    """Turn a path that no file system takes, being too long for one, into one line."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{str(path)[:60]}... cannot be a directory: {error.strerror}: give another one") from None
