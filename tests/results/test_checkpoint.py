"""Checkpoints come back as they were saved, and a damaged or half-written one is never used."""

from __future__ import annotations

import errno
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkd.base.errors import InputError, Notice
from fedkd.results import checkpoint
from fedkd.results.checkpoint import Checkpoint


def round_trip(folder: Path, parts: dict[str, RecordDict], note: dict[str, object] | None = None) -> Checkpoint:
    checkpoint.save(folder, Checkpoint(1, parts, note or {}))
    return checkpoint.load(checkpoint.newest(folder))


@pytest.mark.parametrize(
    "values",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.array(7, dtype=np.int64),  # no dimension
        np.zeros((0, 4), dtype=np.float16),  # no element
        np.array([True, False]),
        np.array([-0.0, np.nan, np.inf]),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),  # kept as raw bytes: safetensors knows row order only
        np.array([1, 2], dtype=">i4"),
        np.array([1 + 2j]),
    ],
    ids=lambda values: f"{values.dtype}{values.shape}",
)
def test_arrays_come_back_to_the_byte(tmp_path: Path, values: np.ndarray) -> None:
    saved = Array(values)
    loaded = round_trip(tmp_path, {"server": RecordDict({"arrays": ArrayRecord({"x": saved})})})
    restored = loaded.parts["server"]["arrays"]["x"]
    assert (restored.dtype, restored.shape, restored.stype) == (saved.dtype, saved.shape, saved.stype)
    assert restored.data == saved.data


def test_an_array_of_another_serialization_is_kept_as_its_bytes(tmp_path: Path) -> None:
    saved = Array("bits", (3,), "my.codec", b"\x00\x01\x02\xff")
    loaded = round_trip(tmp_path, {"server": RecordDict({"arrays": ArrayRecord({"x": saved})})})
    assert loaded.parts["server"]["arrays"]["x"] == saved


def test_scalars_keep_type_value_and_order(tmp_path: Path) -> None:
    config = {
        "z": True,
        "a": 1,
        "f": 1.0,
        "s": "é\n",
        "b": b"\x00\xff",
        "ints": [3, 1],
        "none": [],
        "bytes": [b"", b"x"],
    }
    metrics = {"loss": 0.1, "huge": 1e300, "count": 2**53 + 1, "list": [0.1, 0.2]}
    records = RecordDict({"second": MetricRecord(metrics), "first": ConfigRecord(config)})
    loaded = round_trip(tmp_path, {"client/3": records, "client/1": RecordDict()})
    assert list(loaded.parts) == ["client/3", "client/1"]
    restored = loaded.parts["client/3"]
    assert list(restored) == ["second", "first"]
    assert isinstance(restored["second"], MetricRecord) and isinstance(restored["first"], ConfigRecord)
    for before, after in ((config, restored["first"]), (metrics, restored["second"])):
        assert [(key, type(value), value) for key, value in after.items()] == [
            (key, type(value), value) for key, value in before.items()
        ]


def test_numbers_that_are_not_finite_survive(tmp_path: Path) -> None:
    loaded = round_trip(tmp_path, {"server": RecordDict({"m": MetricRecord({"nan": math.nan, "low": -math.inf})})})
    assert math.isnan(loaded.parts["server"]["m"]["nan"]) and loaded.parts["server"]["m"]["low"] == -math.inf


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    values=st.dictionaries(
        st.text(),
        st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary(), st.lists(st.binary())),
    )
)
def test_any_config_comes_back(tmp_path_factory: pytest.TempPathFactory, values: dict[str, bytes]) -> None:
    folder = tmp_path_factory.mktemp("checkpoint")
    loaded = round_trip(folder, {"server": RecordDict({"config": ConfigRecord(values)})})
    assert list(loaded.parts["server"]["config"].items()) == list(values.items())


def test_names_that_join_to_the_same_path_stay_apart(tmp_path: Path) -> None:
    one, two = np.zeros(1), np.ones(1)
    parts = {
        "a/b": RecordDict({"c": ArrayRecord({"x": Array(one)})}),
        "a": RecordDict({"b/c": ArrayRecord({"x": Array(two)})}),
    }
    loaded = round_trip(tmp_path, parts)
    assert loaded.parts["a/b"]["c"]["x"].numpy() == one and loaded.parts["a"]["b/c"]["x"].numpy() == two


def test_shared_bytes_are_stored_once_and_shared_again(tmp_path: Path) -> None:
    array = Array(np.zeros(25_000, dtype=np.float32))  # 100 kB
    parts = {f"client/{k}": RecordDict({"net": ArrayRecord({"w": array})}) for k in range(10)}
    loaded = round_trip(tmp_path, parts)
    size = (checkpoint.newest(tmp_path) / "arrays.safetensors").stat().st_size
    assert 100_000 < size < 110_000
    assert loaded.parts["client/0"]["net"]["w"].data is loaded.parts["client/9"]["net"]["w"].data


def test_the_note_comes_back_with_numpy_numbers_as_pythons(tmp_path: Path) -> None:
    note = {"rows": [{"round": 1, "accuracy": np.float32(0.5)}], "key": b"secret"}
    assert round_trip(tmp_path, {}, note).note == {"rows": [{"round": 1, "accuracy": 0.5}], "key": b"secret"}


def save_rounds(folder: Path, *rounds: int) -> None:
    for round in rounds:
        records = RecordDict({"net": ArrayRecord({"w": Array(np.full(3, round))})})
        checkpoint.save(folder, Checkpoint(round, {"server": records}, {}))


def test_as_many_rounds_stay_as_are_asked_for_and_the_best_one(tmp_path: Path) -> None:
    for round in range(1, 6):
        checkpoint.save(tmp_path, Checkpoint(round, {}, {}), keep=3, also={1})
    assert sorted(place.name[-1] for place in tmp_path.iterdir()) == ["1", "3", "4", "5"]


def test_the_last_two_rounds_stay(tmp_path: Path) -> None:
    save_rounds(tmp_path, 8, 9, 10)
    assert sorted(place.name for place in tmp_path.iterdir()) == ["round-00009", "round-00010"]
    assert checkpoint.load(checkpoint.newest(tmp_path)).parts["server"]["net"]["w"].numpy().tolist() == [10, 10, 10]


@pytest.mark.parametrize("name", ["arrays.safetensors", "records.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, name: str, damage: str) -> None:
    save_rounds(tmp_path, 1, 2)
    file = tmp_path / "round-00002" / name
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-7])
    else:
        file.unlink()
    with pytest.warns(Notice, match=rf"round-00002 is damaged \({name} .*\): the run goes on from round 1; bring it back"):
        assert checkpoint.newest(tmp_path).name == "round-00001"


def test_a_crash_while_writing_leaves_the_last_checkpoint_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_rounds(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda self, target: (_ for _ in ()).throw(OSError("power cut")))
        with pytest.raises(OSError, match="power cut"):
            save_rounds(tmp_path, 2)
    assert checkpoint.newest(tmp_path).name == "round-00001"
    save_rounds(tmp_path, 2)
    assert sorted(place.name for place in tmp_path.iterdir()) == ["round-00001", "round-00002"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks Linux which file a descriptor is of")
@pytest.mark.parametrize("full_at", range(6))
def test_a_disk_that_is_full_at_any_write_leaves_the_last_checkpoint_and_no_litter(
    full_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint is flushed six times: three files, and the directory after two of them and at the end."""
    save_rounds(tmp_path, 1)
    flushes, fsync = iter(range(9)), os.fsync

    def full(descriptor: int) -> None:
        if next(flushes) == full_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(os, "fsync", full)
        save_rounds(tmp_path, 2)
    whole = ["round-00001"] if full_at < 5 else ["round-00001", "round-00002"]  # the last flush is of what stands there
    assert sorted(place.name for place in tmp_path.iterdir()) == whole
    assert checkpoint.newest(tmp_path).name == whole[-1]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_a_file_that_outgrows_the_disk_is_an_error_of_the_system_with_its_name(tmp_path: Path) -> None:
    """In a process whose files may not grow over 100 kB; safetensors itself tells of it in words only."""
    code = f"""
import resource, sys
import numpy as np
from pathlib import Path
from flwr.app import Array, ArrayRecord, RecordDict
from fedkd.results import checkpoint
from fedkd.results.checkpoint import Checkpoint
from fedkd.results.files import writing

def save(round, size):
    records = RecordDict({{"net": ArrayRecord({{"w": Array(np.zeros(size))}})}})
    checkpoint.save(folder, Checkpoint(round, {{"server": records}}, {{}}))

folder = Path({str(tmp_path)!r})
save(1, 100)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with writing(folder):
        save(2, 100_000)
except Exception as error:
    print(type(error).__name__, error)
print([place.name for place in folder.iterdir()])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said, left = done.stdout.splitlines()
    assert said == f"RunFailed cannot write {tmp_path / '.writing' / 'arrays.safetensors'}: File too large"
    assert left == "['round-00001']"


def test_no_checkpoint_at_all_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no complete checkpoint"):
        checkpoint.newest(tmp_path / "run" / "checkpoint")
