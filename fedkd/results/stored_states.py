"""The states of clients after a round, read from the database of a run that is over or is to go on."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from flwr.app import RecordDict

from fedkd.base.errors import InputError
from fedkd.results.client_states import FILE, connect, content_of, telling
from fedkd.results.stored_records import from_bytes

_AT = "round <= :round AND (until IS NULL OR until > :round)"


def states_after(folder: Path, round: int) -> Iterator[tuple[int, RecordDict]]:
    """The clients' states after a round whose checkpoint is in ``folder``, one at a time, in order of client id."""
    if (file := folder / FILE).exists():
        with telling(file), closing(connect(file)) as base:
            versions = f"SELECT client, id, digest FROM versions WHERE {_AT} ORDER BY client"
            for client, *row in base.execute(versions, {"round": round}):
                yield client, from_bytes(content_of(base, *row))


def damage(folder: Path, round: int, clients: int) -> str:
    """What is wrong with the states of so many clients after a round, in words; empty where nothing is."""
    if not clients:
        return ""
    if not (file := folder / FILE).exists():
        return f"{FILE} is not there"
    try:
        with closing(connect(file)) as base:
            rows = base.execute(f"SELECT id, digest FROM versions WHERE {_AT}", {"round": round}).fetchall()
            for row in rows:
                content_of(base, *row)
    except (sqlite3.Error, OSError) as error:
        return f"{FILE} cannot be read: {error}"
    except InputError:
        return f"{FILE} holds other bytes than were written"
    return "" if len(rows) == clients else f"{FILE} holds {len(rows)} clients of {clients}"
