"""Checkpoints: everything a run needs to go on, as safetensors and JSON.

``checkpoint/round-00007/`` holds ``arrays.safetensors`` (every array of every record), ``records.json`` (the records
around them, and the run's note) and ``manifest.json`` (hashes of both, written last). The directory appears by one
rename, so it is whole or absent; should the disk damage it later, the hashes tell and the newest whole one is used.
What the clients of a simulation keep lies beside all of them, in the database of ``client_states``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import RecordDict
from numpy.typing import NDArray

from fedkd.base.errors import InputError, Notice
from fedkd.results import stored_states
from fedkd.results.files import sync, sync_directory, write_atomically
from fedkd.results.stored_records import Packing, Unpacking, from_text, to_text

WRITING = ".writing"
"""The directory of a checkpoint that is not yet whole."""

_FILES = ("arrays.safetensors", "records.json")


@dataclass(frozen=True)
class Checkpoint:
    """A run's state after a round: Flower records by part ("server", "client/3" ...) and a note of JSON values."""

    round: int
    parts: dict[str, RecordDict]
    note: dict[str, Any]
    clients: int | None = None
    """How many clients have a state in the database beside the checkpoint; None where states are among the parts."""


def save(folder: Path, checkpoint: Checkpoint, *, keep: int = 2, also: Collection[int] = ()) -> None:
    """Write the checkpoint into ``folder``, whole or not at all, then delete those of earlier rounds.

    Args:
        folder: holds the checkpoints of one run.
        checkpoint: what to write.
        keep: how many stay, the newest; of two, one is there to fall back to.
        also: rounds whose checkpoints stay besides.
    """
    writing = folder / WRITING
    shutil.rmtree(writing, ignore_errors=True)
    try:
        writing.mkdir(parents=True)
        _write(writing, checkpoint)
        remove(place := place_of(folder, checkpoint.round))
        writing.rename(place)
    except BaseException:
        shutil.rmtree(writing, ignore_errors=True)  # on a full disk others need the room
        raise
    sync_directory(folder)
    for old in places(folder)[keep:]:
        if round_of(old) not in also:
            remove(old)


def _write(writing: Path, checkpoint: Checkpoint) -> None:
    packing = Packing()
    parts = {part: packing.pack(records, part) for part, records in checkpoint.parts.items()}
    _save_tensors(packing.tensors, writing / "arrays.safetensors")
    sync(writing / "arrays.safetensors")
    write_atomically(writing / "records.json", to_text({"parts": parts, "note": checkpoint.note}))
    manifest = {"round": checkpoint.round, "sha256": {name: _sha256(writing / name) for name in _FILES}}
    if checkpoint.clients is not None:
        manifest["clients"] = checkpoint.clients
    write_atomically(writing / "manifest.json", json.dumps(manifest, indent=1))


def _save_tensors(tensors: dict[str, NDArray[Any]], file: Path) -> None:
    """Write a file of tensors. Raises OSError where it cannot be written, which safetensors tells in words only."""
    from safetensors import SafetensorError  # here and below: most processes write no checkpoint
    from safetensors.numpy import save_file

    try:
        save_file(tensors, file)
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(file)) from error


def newest(folder: Path) -> Path:
    """The newest checkpoint whose files are whole, with a Notice where it is not the last. InputError when there is none."""
    there = places(folder)
    for place in there:
        if not damage(place):
            if place != there[0]:
                text = f"{there[0]} is damaged ({damage(there[0])}): the run goes on from round {round_of(place)}"
                warnings.warn(
                    f"{text}; bring it back from a copy to go on from round {round_of(there[0])}", Notice, stacklevel=2
                )
            return place
    why = f" ({there[0]} is damaged: {damage(there[0])})" if there else ""
    raise InputError(f"{folder.parent} has no complete checkpoint to resume from{why}: delete it and start the run again")


def place_of(folder: Path, round: int) -> Path:
    """Where the checkpoint of a round lies."""
    return folder / f"round-{round:05d}"


def round_of(place: Path) -> int:
    """The round after which the checkpoint at ``place`` was written."""
    return int(place.name.removeprefix("round-"))


def load(place: Path) -> Checkpoint:
    """Read the checkpoint at ``place``: the records that were saved, in their order."""
    from safetensors.numpy import load_file

    content = from_text((place / "records.json").read_text())
    unpacking = Unpacking(load_file(place / "arrays.safetensors"))
    parts = {part: unpacking.unpack(records) for part, records in content["parts"].items()}
    clients = json.loads((place / "manifest.json").read_bytes()).get("clients")
    return Checkpoint(round_of(place), parts, content["note"], clients)


def places(folder: Path) -> list[Path]:
    """The checkpoint directories in ``folder``, newest first; whatever else lies there is none of ours."""
    found = [place for place in folder.glob("round-*") if re.fullmatch(r"round-\d{5,}", place.name) and place.is_dir()]
    return sorted(found, key=round_of, reverse=True)


def remove(place: Path) -> None:
    """Delete a checkpoint, or the link that stands for one."""
    if place.is_symlink():
        place.unlink()
    else:
        shutil.rmtree(place, ignore_errors=True)


def damage(place: Path) -> str:
    """What is wrong with the checkpoint at ``place``, in words that name the file; empty where it is whole."""
    try:
        manifest = json.loads((place / "manifest.json").read_bytes())
        if manifest["round"] != round_of(place) or manifest["sha256"].keys() != set(_FILES):
            return "manifest.json is of another checkpoint"
        for name, expected in manifest["sha256"].items():
            if _sha256(place / name) != expected:
                return f"{name} has another sha256 than when it was written"
        return stored_states.damage(place.parent, manifest["round"], manifest.get("clients") or 0)
    except OSError as error:
        return f"{Path(error.filename or place).name} cannot be read: {error.strerror}"
    except (ValueError, LookupError, TypeError, AttributeError):
        return "manifest.json names no files and hashes"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
