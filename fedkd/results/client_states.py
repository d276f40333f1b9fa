"""What the clients of a simulation keep, in a database beside a run's checkpoints: a round writes those who took part.

``checkpoint/clients.sqlite`` holds versions: the state of a client as it was from one round on ``until`` its next. So the
checkpoint of a round need only be there for its clients to be there: each one's version of that round. A version that no
checkpoint needs any more is deleted, and its room is used again. Everything that is written after the last checkpoint is
taken back when the run goes on.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import final

from flwr.app import RecordDict

from fedkd.base.errors import InputError
from fedkd.results.stored_records import from_bytes, to_bytes

#: The database, beside the checkpoints.
FILE = "clients.sqlite"
#: SQLite holds at most a billion bytes in one place; a state is split into parts of so many.
PART_BYTES = 2**28
#: Deleting takes time too: in a round so many times as many versions go as come, at most.
GO_PER_COME = 4
_TABLES = """
BEGIN;
CREATE TABLE versions (
    id INTEGER PRIMARY KEY, client INTEGER, round INTEGER, until INTEGER, digest BLOB, UNIQUE (client, round)
);
CREATE INDEX by_until ON versions (until);
CREATE TABLE parts (version INTEGER, part INTEGER, content BLOB, UNIQUE (version, part));
CREATE TABLE kept (round INTEGER PRIMARY KEY);
PRAGMA user_version = 1;
COMMIT;
"""
#: Debian's SQLite overwrites with zeros what is deleted; larger pages make fewer links of a net's weights.
_SETTINGS = "PRAGMA secure_delete = OFF; PRAGMA page_size = 8192; PRAGMA cache_size = -8192;"
#: What SQLite says on a network file system that has no locks.
_NO_LOCKS = ("SQLITE_PROTOCOL", "SQLITE_IOERR_LOCK", "SQLITE_IOERR_RDLOCK")
_CODES = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_READONLY: errno.EROFS, sqlite3.SQLITE_PERM: errno.EACCES}


@final
class ClientStates:
    """The database of one run, which is made when there is something to write. Use it as a context manager.

    Args:
        folder: of the run's checkpoints; None: a temporary file, which is gone with the process, however that ends.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder, self._made = folder, ""
        self._base: sqlite3.Connection | None = None
        self._round = self._clients = 0

    def __enter__(self) -> ClientStates:
        return self

    def __exit__(self, *_: object) -> None:
        if self._base is not None:
            self._base.close()
            self._base = None
        if self._made:
            shutil.rmtree(self._made, ignore_errors=True)

    def save(self, states: Mapping[int, RecordDict]) -> None:
        """Write states that have changed since the last round's end. Raises OSError where they cannot be written."""
        if states:
            with self._writing() as base:
                for client, state in states.items():
                    self._put(base, client, to_bytes(state))

    def load(self, client: int) -> RecordDict | None:
        """The newest state of a client; None where it has none."""
        if self._base is None:
            return None
        with telling(self.place):
            row = self._base.execute("SELECT id, digest FROM versions WHERE client = ? AND until IS NULL", (client,)).fetchone()
            return None if row is None else from_bytes(content_of(self._base, *row))

    def clients(self) -> list[int]:
        """Who has a state, in order."""
        if self._base is None:
            return []
        return [row[0] for row in self._base.execute("SELECT client FROM versions WHERE until IS NULL ORDER BY client")]

    def seal(self, round: int, states: Mapping[int, RecordDict], kept: Collection[int]) -> int:
        """End a round, of which ``states`` are not saved yet: from now on a checkpoint of it can be written.

        What only checkpoints needed that are gone is deleted. Says how many clients have a state.

        Args:
            round: the round.
            states: the last ones that changed in it.
            kept: the rounds whose checkpoints are there.
        """
        self._round = round
        if states or self._base is not None:
            with self._writing() as base:
                self.save(states)
                base.execute("INSERT OR REPLACE INTO kept VALUES (?)", (round,))
                come = base.execute("SELECT COUNT(*) FROM versions WHERE until = ?", (round,)).fetchone()[0]
                self._delete(base, {round, *kept}, most=GO_PER_COME * (come + 1))
        self._round = round + 1
        return self._clients

    def rewind(self, round: int) -> None:
        """Go back to the states after this round; -1: to none."""
        self._round = round + 1
        if self._base is None and not (self._folder and (self._folder / FILE).exists()):
            return
        with self._writing() as base:
            later = "(SELECT id FROM versions WHERE round > ?)"
            base.execute(f"DELETE FROM parts WHERE version IN {later}", (round,))
            base.execute("DELETE FROM versions WHERE round > ?", (round,))
            base.execute("UPDATE versions SET until = NULL WHERE until > ?", (round,))
            base.execute("DELETE FROM kept WHERE round > ?", (round,))
            self._clients = base.execute("SELECT COUNT(*) FROM versions WHERE until IS NULL").fetchone()[0]

    @property
    def folder(self) -> Path:
        """Where the file is."""
        return self._folder or Path(tempfile.gettempdir())

    @property
    def place(self) -> Path:
        """The file."""
        return self.folder / FILE

    def _put(self, base: sqlite3.Connection, client: int, content: bytes) -> None:
        last = base.execute("SELECT id, round FROM versions WHERE client = ? AND until IS NULL", (client,)).fetchone()
        if last and last[1] == self._round:  # a second time in this round
            version = last[0]
            base.execute("DELETE FROM parts WHERE version = ?", (version,))
            base.execute("UPDATE versions SET digest = ? WHERE id = ?", (_digest(content), version))
        else:
            if last:
                base.execute("UPDATE versions SET until = ? WHERE id = ?", (self._round, last[0]))
            self._clients += not last
            row = (client, self._round, _digest(content))
            version = base.execute("INSERT INTO versions (client, round, digest) VALUES (?, ?, ?)", row).lastrowid
        for part, begin in enumerate(range(0, len(content), PART_BYTES)):
            base.execute("INSERT INTO parts VALUES (?, ?, ?)", (version, part, content[begin : begin + PART_BYTES]))

    def _delete(self, base: sqlite3.Connection, kept: Collection[int], *, most: int) -> None:
        """Delete versions that no round needs: valid in one whose checkpoint is gone, and not in those before and after it."""
        noted = [row[0] for row in base.execute("SELECT round FROM kept ORDER BY round")]
        for place, round in enumerate(noted):
            if round in kept:
                continue
            before = max((each for each in noted[:place] if each in kept), default=-1)
            unneeded = "SELECT id FROM versions WHERE until > ? AND until <= ? AND round > ? AND round <= ? LIMIT ?"
            gone = base.execute(unneeded, (round, noted[place + 1], before, round, most)).fetchall()
            base.executemany("DELETE FROM parts WHERE version = ?", gone)
            base.executemany("DELETE FROM versions WHERE id = ?", gone)
            if len(gone) == most:
                return  # the rest in the next rounds
            base.execute("DELETE FROM kept WHERE round = ?", (round,))

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction; one within another is part of it."""
        with telling(self.place):
            base = self._base = self._base or self._opened()
            if base.in_transaction:
                yield base
                return
            base.execute("BEGIN IMMEDIATE")
            try:
                yield base
                base.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    base.execute("ROLLBACK")
                raise

    def _opened(self) -> sqlite3.Connection:
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            base = connect(self._folder / FILE)
        else:
            self._made = tempfile.mkdtemp(prefix="fedkd-")
            base = connect(Path(self._made) / FILE)
            base.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")
            with suppress(OSError):  # the file lives on without its name until it is closed; not on Windows
                (Path(self._made) / FILE).unlink()
        if not base.execute("PRAGMA user_version").fetchone()[0]:
            base.executescript(_TABLES)
        return base


def remove(folder: Path) -> None:
    """Delete the database, if there is one."""
    for name in (FILE, f"{FILE}-journal"):
        (folder / name).unlink(missing_ok=True)


def connect(file: Path) -> sqlite3.Connection:
    """The database in a file, whole: what a killed process left half written is taken back."""
    place = file.absolute().as_uri()
    try:
        return _connected(place)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname not in _NO_LOCKS:
            raise
        return _connected(f"{place}?nolock=1")  # a run's directory has one writer in any case: see ``lock``


def _connected(place: str) -> sqlite3.Connection:
    base = sqlite3.connect(place, timeout=30, isolation_level=None, check_same_thread=False, uri=True)  # a grid has one lock
    base.executescript(_SETTINGS)
    base.execute("PRAGMA user_version").fetchone()
    return base


def content_of(base: sqlite3.Connection, version: int, digest: bytes) -> bytes:
    """The bytes of a version. Raises InputError where they are not those that were written."""
    parts = base.execute("SELECT content FROM parts WHERE version = ? ORDER BY part", (version,)).fetchall()
    content: bytes = parts[0][0] if len(parts) == 1 else b"".join(part for (part,) in parts)
    if _digest(content) != digest:
        raise InputError(f"{FILE} holds other bytes than were written: bring it back from a copy")
    return content


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


@contextmanager
def telling(file: Path) -> Iterator[None]:
    """Turn what SQLite says of a disk into the system's error of it."""
    try:
        yield
    except sqlite3.Error as error:
        code = _CODES.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, errno.EIO)
        raise OSError(code, f"{os.strerror(code)} ({error})" if code == errno.EIO else os.strerror(code), str(file)) from error
