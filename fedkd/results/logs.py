"""The logs of a run: what a reader may take for granted of their rows, and what a checkpoint remembers of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from fedkd.base.errors import InputError
from fedkd.results.files import append_lines, read_lines
from fedkd.results.row_keys import BYTES, JOULES, SECONDS, SHARE, describe_key

METRICS, CLIENTS, FLOW = "metrics.jsonl", "clients.jsonl", "flow.jsonl"
CURE = "bring the file back from a copy, or leave this run out"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a run directory's ``metrics.jsonl``: rounds 0, 1, 2 ..., each once; none where there is no file.

    A last line that a crash cut short is left out. Raises InputError, which names the line, for any other damage.
    """
    file = path / METRICS
    rows = read_lines(file)
    for number, row in enumerate(rows):
        where = f"{file}, line {number + 1}"
        if row.get("round") != number:
            raise InputError(f"{where} should be round {number} and is {row.get('round')}: lines are lost or doubled: {CURE}")
        for key, value in row.items():
            summed = describe_key(key).unit in (SHARE, BYTES, SECONDS, JOULES)
            if summed and isinstance(value, str | dict):
                raise InputError(f"{where}: {key} is {value!r}, no number: {CURE}")
    return rows


def read_clients(path: Path) -> list[dict[str, Any]]:
    """The rows of a run directory's ``clients.jsonl``: rounds in order, each client once a round. Likewise."""
    file, last = path / CLIENTS, (-1, -1)
    rows = read_lines(file)
    for number, row in enumerate(rows, start=1):
        key = row.get("round"), row.get("client")
        if not (isinstance(key[0], int) and isinstance(key[1], int)):
            raise InputError(f"{file}, line {number} names no round and client: {CURE}")
        if key <= last:
            behind = f"client {key[1]} of round {key[0]} stands behind client {last[1]} of round {last[0]}"
            raise InputError(f"{file}, line {number}: {behind}: lines are doubled or out of order: {CURE}")
        last = key[0], key[1]
    return rows


def read_flow(path: Path) -> list[dict[str, Any]]:
    """The rows of a run directory's ``flow.jsonl``, one a round in which clients' answers became a teacher; none without it.

    ``clients``: their ids. ``samples``: of each class, how many public samples the teacher gave it. ``shares``: of each client
    and class, its part of what all clients' answers put on the teacher's class. ``followed``: of each client and class, on
    how many of the samples that the teacher before gave this class the client's answer is now the same.
    """
    file = path / FLOW
    rows = read_lines(file)
    for number, row in enumerate(rows, start=1):
        size = [len(row[key]) if isinstance(row.get(key), list) else -1 for key in ("clients", "samples")]
        tables = [row[key] for key in ("shares", "followed") if key in row]
        fits = isinstance(row.get("round"), int) and tables and all(_has_shape(table, *size) for table in tables)
        if not fits:
            raise InputError(f"{file}, line {number} holds no tables of clients and classes: {CURE}")
    return rows


def _has_shape(table: object, rows: int, columns: int) -> bool:
    fits = isinstance(table, list) and len(table) == rows
    return fits and all(isinstance(row, list) and len(row) == columns for row in table)  # type: ignore[attr-defined]


#: What reads each log, and says which line is damaged.
READERS = {METRICS: read_metrics, CLIENTS: read_clients, FLOW: read_flow}


@final
class Log:
    """A log that is written, and the digest of all that was written so far."""

    def __init__(self, file: Path, content: bytes = b"") -> None:
        self.file, self._size, self._digest = file, len(content), hashlib.sha256(content)

    def append(self, rows: list[Mapping[str, Any]]) -> None:
        """Add rows, on disk when this returns."""
        content = append_lines(self.file, rows)
        self._size += len(content)
        self._digest.update(content)

    @property
    def extent(self) -> tuple[int, str]:
        """How many bytes there are, and their digest."""
        return self._size, self._digest.hexdigest()

    @classmethod
    def of(cls, file: Path, extent: tuple[int, str]) -> Log:
        """The log as it was at this extent; what was written later is not in it. InputError where it is no longer so."""
        log = cls(file, file.read_bytes()[: extent[0]] if file.exists() else b"")
        if log.extent != tuple(extent):
            READERS[file.name](file.parent)  # says which line, where it can
            raise InputError(f"{file} has lost or changed lines since the run wrote them: bring it back from a copy")
        return log

    def cut(self) -> None:
        """Drop from the file what is not in this log."""
        if self.file.exists():
            with self.file.open("rb+") as file:
                file.truncate(self._size)


def logs_until(path: Path, last: int) -> dict[str, Log]:
    """The logs up to a round, of a run whose checkpoints do not speak of them. InputError where a line is missing."""
    rows = {METRICS: read_metrics(path), CLIENTS: read_clients(path)}
    if len(rows[METRICS]) <= last:
        raise InputError(f"{path / METRICS} ends before round {last}: bring it back from a copy")
    logs = {}
    for name, held in rows.items():
        lines = (path / name).read_bytes().split(b"\n") if held else []
        kept = sum(row["round"] <= last for row in held)
        logs[name] = Log(path / name, b"".join(line + b"\n" for line in lines[:kept]))
    return logs
