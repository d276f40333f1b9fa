"""Writing to disk so that a crash leaves the old content or the new, never a half."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from math import isfinite
from pathlib import Path
from typing import Any

from fedkd.base.errors import InputError, RunFailed

#: What the system says of a disk that is full, or a user's share of it.
FULL = (errno.ENOSPC, errno.EDQUOT)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replace the file's content in one step: write beside it, flush to disk, rename."""
    beside = path.with_name(f".{path.name}.writing")
    try:
        with beside.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        error.filename, error.filename2 = str(path), None  # what was asked for, and not the file beside it
        raise
    sync_directory(path.parent)


def sync(path: Path) -> None:
    """Flush a file that somebody else wrote to disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Flush a directory's entries, so that a rename in it outlives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def plain(value: Any) -> Any:
    """The value as strict JSON knows it: numpy and torch numbers become Python's, NaN and infinities null.

    >>> plain({"loss": float("nan"), "clients": (1, 2)})
    {'loss': None, 'clients': [1, 2]}
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not isfinite(value):
        return None
    return value


def append_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Append one JSON object a line, in a single write that is on disk when this returns; the bytes that were added."""
    content = "".join(json.dumps(plain(row), allow_nan=False) + "\n" for row in rows).encode()
    with path.open("ab", buffering=0) as file:
        file.write(content)
        os.fsync(file.fileno())
    return content


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; none where there is no file. A last line that a crash cut short is left out.

    Raises InputError, which names the line, for one that is no JSON object.
    """
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            row = json.loads(line)
        except ValueError:  # what is no UTF-8 too
            row = None
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number} is no JSON object: bring the file back from a copy, or leave it out")
        rows.append(row)
    return rows


@contextmanager
def writing(path: Path, error: type[Exception] = RunFailed) -> Iterator[None]:
    """Turn a disk that is full or may not be written, in this block, into one line that says so."""
    try:
        yield
    except OSError as reason:
        where = reason.filename or path
        cure = ": make room there; a run that has begun goes on with --resume" if reason.errno in FULL else ""
        raise error(f"cannot write {where}: {reason.strerror or reason}{cure}") from reason
