"""States of clients in the database: each round's are there as long as its checkpoint is, and a round writes its own."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedkd.base.errors import InputError
from fedkd.results import client_states, stored_records
from fedkd.results.client_states import FILE, ClientStates
from fedkd.results.stored_states import damage, states_after


def state(value: int, size: int = 3) -> RecordDict:
    return RecordDict({"net": ArrayRecord({"w": Array(np.full(size, value))}), "facts": ConfigRecord({"value": value})})


def values(folder: Path, round: int) -> dict[int, int]:
    return {client: int(records["facts"]["value"]) for client, records in states_after(folder, round)}


def test_records_of_all_kinds_are_the_same_bytes_each_time_and_come_back() -> None:
    arrays = ArrayRecord({"bits": Array("bits", (3,), "my.codec", b"\x00\x01\xff"), "x": Array(np.array(-0.0))})
    records = RecordDict({"a": arrays, "m": MetricRecord({"n": [1.5]}), "c": ConfigRecord({"b": b"\xff", "s": "é"})})
    content = stored_records.to_bytes(records)
    assert stored_records.to_bytes(stored_records.from_bytes(content)) == content
    assert stored_records.from_bytes(content) == records


def test_each_round_whose_checkpoint_is_there_has_its_own_states(tmp_path: Path) -> None:
    with ClientStates(tmp_path) as states:
        assert states.seal(0, {}, set()) == 0
        assert not (tmp_path / FILE).exists()  # clients that keep nothing need no file
        assert states.seal(1, {4: state(1), 7: state(1)}, {0}) == 2
        assert states.seal(2, {4: state(2)}, {0, 1}) == 2
        assert states.seal(3, {9: state(3)}, {1, 2}) == 3
        assert [values(tmp_path, round) for round in (1, 2, 3)] == [{4: 1, 7: 1}, {4: 2, 7: 1}, {4: 2, 7: 1, 9: 3}]
        states.seal(4, {}, {2, 3})  # the checkpoint of round 1 is gone, and with it what only it needed
        assert versions(tmp_path) == [(4, 2), (7, 1), (9, 3)]
        assert states.load(4) == state(2) and states.load(5) is None


def versions(folder: Path) -> list[tuple[int, int]]:
    with sqlite3.connect(folder / FILE) as base:
        assert (
            base.execute("SELECT COUNT(DISTINCT version) FROM parts").fetchone()
            == base.execute("SELECT COUNT(*) FROM versions").fetchone()
        )
        return base.execute("SELECT client, round FROM versions ORDER BY client, round").fetchall()


def test_a_state_saved_twice_in_a_round_is_there_once(tmp_path: Path) -> None:
    with ClientStates(tmp_path) as states:
        states.save({1: state(5)})
        states.seal(0, {1: state(6)}, set())
    assert values(tmp_path, 0) == {1: 6} and versions(tmp_path) == [(1, 0)]


@pytest.mark.parametrize("seed", range(4))
def test_whoever_takes_part_and_whichever_round_is_the_best_one(seed: int, tmp_path: Path) -> None:
    """Twelve clients, three a round; two newest checkpoints stay and the best, which is another one now and then."""
    rng, kept, best, now, then = random.Random(seed), set(), 0, {}, {}
    with ClientStates(tmp_path) as states:
        for round in range(40):
            changed = {client: state(100 * round + client) for client in rng.sample(range(12), 3)}
            now = {**now, **{client: 100 * round + client for client in changed}}
            assert states.seal(round, changed, kept) == len(now)
            then[round], best = now, rng.choice([best, best, best, round])
            kept = {best, round - 1, round} & then.keys()
            assert all(values(tmp_path, each) == then[each] for each in kept)
            assert len(versions(tmp_path)) <= 2 * 12 + 4 * 3
        for each in range(12):  # and where it stays the same one, all else is forgotten by and by
            states.seal(40 + each, {}, {39 + each})
    assert len(versions(tmp_path)) == len(now)


def test_going_back_takes_all_of_later_rounds_back(tmp_path: Path) -> None:
    with ClientStates(tmp_path) as states:
        states.seal(1, {1: state(1), 2: state(1)}, set())
        states.seal(2, {1: state(2)}, {1})
        states.save({2: state(3), 3: state(3)})  # the run is killed in round 3
    with ClientStates(tmp_path) as states:
        states.rewind(2)
        assert states.clients() == [1, 2] and states.load(2) == state(1)
        states.rewind(1)
        assert states.load(1) == state(1) and versions(tmp_path) == [(1, 1), (2, 1)]
        states.rewind(-1)
        assert states.clients() == versions(tmp_path) == []


def test_a_state_larger_than_sqlite_takes_in_one_place_is_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_states, "PART_BYTES", 1000)
    with ClientStates(tmp_path) as states:
        states.seal(0, {1: state(1, size=1000)}, set())
        assert states.load(1) == state(1, size=1000)
        states.seal(1, {1: state(2, size=10)}, {0})
        assert states.load(1) == state(2, size=10)


@pytest.mark.parametrize(
    ("hurt", "said"),
    [
        (lambda file: file.write_bytes(b"no database" * 100), "clients.sqlite cannot be read: file is not a database"),
        (lambda file: file.unlink(), "clients.sqlite is not there"),
        (lambda file: change(file, "UPDATE parts SET content = zeroblob(9)"), "clients.sqlite holds other bytes than were"),
        (lambda file: change(file, "DELETE FROM versions WHERE client = 1"), "clients.sqlite holds 1 clients of 2"),
    ],
)
def test_damage_is_seen(hurt: object, said: str, tmp_path: Path) -> None:
    with ClientStates(tmp_path) as states:
        states.seal(0, {1: state(1), 2: state(2)}, set())
    assert damage(tmp_path, 0, 2) == ""
    hurt(tmp_path / FILE)  # type: ignore[operator]
    assert damage(tmp_path, 0, 2).startswith(said)


def change(file: Path, statement: str) -> None:
    with sqlite3.connect(file) as base:
        base.execute(statement)


def test_other_bytes_are_not_taken_for_a_state_in_a_run(tmp_path: Path) -> None:
    with ClientStates(tmp_path) as states:
        states.save({1: state(1)})
        change(tmp_path / FILE, "UPDATE parts SET content = zeroblob(9)")
        with pytest.raises(InputError, match=r"clients.sqlite holds other bytes than were written: bring it back from a copy"):
            states.load(1)


def test_a_full_disk_is_the_systems_error_and_leaves_the_last_round(tmp_path: Path) -> None:
    with ClientStates(tmp_path) as states:
        states.seal(0, {1: state(1)}, set())
        assert states._base is not None
        states._base.execute("PRAGMA max_page_count = 20")
        with pytest.raises(OSError, match=r"No space left on device.*clients\.sqlite"):
            states.seal(1, {client: state(2, size=20_000) for client in range(9)}, {0})
        assert values(tmp_path, 0) == {1: 1} and versions(tmp_path) == [(1, 0)]


def test_a_temporary_file_is_gone_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with ClientStates(None) as states:
        assert states.load(1) is None and not list(tmp_path.iterdir())  # nor is one made before there is something to write
        states.save({1: state(1)})
        states.save({1: state(2)})
        assert states.load(1) == state(2) and states.clients() == [1]
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect

    def without_locks(place: str, **settings: Any) -> sqlite3.Connection:
        if "nolock=1" in place:
            return connect(place, **settings)
        error = sqlite3.OperationalError("locking protocol")
        error.sqlite_errorname = "SQLITE_PROTOCOL"
        raise error

    monkeypatch.setattr(client_states.sqlite3, "connect", without_locks)
    with ClientStates(tmp_path) as states:
        states.seal(0, {1: state(1)}, set())
    assert values(tmp_path, 0) == {1: 1}
