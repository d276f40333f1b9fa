"""One writer a run directory: the operating system's lock on a file in it, which ends with the process however that ends."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fedkd.base.errors import InputError, Notice

#: The file that is locked. It is deleted at the end; one that a killed process left locks nobody out.
FILE = ".lock"
_TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)

if TYPE_CHECKING or sys.platform != "win32":
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
else:
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Be the only one to write into this directory, which must exist.

    Raises:
        InputError: another run, of this process or of another one, writes there now; or the directory is not writable.
    """
    file = path / FILE
    descriptor = _taken(file)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)  # before the lock ends, so that nobody locks a file that is about to go
        os.close(descriptor)


def _taken(file: Path) -> int:
    """A descriptor that holds the lock."""
    while True:
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise InputError(f"cannot write into {file.parent}: {error.strerror}: give another directory") from None
        try:
            _lock(descriptor)
        except OSError as error:
            os.close(descriptor)
            if error.errno in _TAKEN:
                cure = "wait for its end, or give another directory"
                raise InputError(f"{file.parent} is being written by another run right now: {cure}") from None
            text = f"{file.parent}: no lock can be had there ({error.strerror}): see that no other run writes into it"
            warnings.warn(text, Notice, stacklevel=2)
            return os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        if _is_at(descriptor, file):
            return descriptor
        os.close(descriptor)  # it was deleted by its owner between the two calls: the next file is another one


def _is_at(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False


def is_locked(path: Path) -> bool:
    """Whether some run writes into this directory now."""
    try:
        descriptor = os.open(path / FILE, os.O_RDWR)
    except OSError:
        return False
    try:
        _lock(descriptor)
    except OSError as error:
        return error.errno in _TAKEN
    finally:
        os.close(descriptor)
    return False
