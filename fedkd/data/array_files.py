"""Arrays in files: ``.npz``, and ``.npy`` files beside each other, which are read row by row. Their names say what each is."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedkd.base.errors import InputError, Notice
from fedkd.data.arrays import Split, channels_first, source_of_arrays
from fedkd.data.layout import some
from fedkd.data.options import HELD_OUT
from fedkd.data.rows import MappedArray
from fedkd.data.source import Source
from fedkd.data.splits import SPELLINGS, words_of

ROLES = {
    **dict.fromkeys(("inputs", "input", "x", "images", "image", "imgs", "features", "data", "samples"), "inputs"),
    **dict.fromkeys(("labels", "label", "y", "targets", "target", "classes"), "labels"),
    **dict.fromkeys(("groups", "group", "clients", "client", "owners", "subject", "subjects"), "groups"),
}
READ = "train_images and train_labels, x_train and y_train, or x and y; test likewise; groups says whose each sample is"


def array_reader(path: Path, held_out: float = HELD_OUT) -> Callable[[str], Source] | None:
    """What reads an .npz, or a folder of .npy files that are called after what they hold; None where there is neither."""
    if path.suffix.lower() == ".npz" and path.is_file():
        return lambda name: read_npz(name, path, held_out)
    files = sorted(file for file in path.glob("*.npy") if not file.name.startswith(".")) if path.is_dir() else []
    roles = {role_of(file.stem)[1] for file in files}
    return (lambda name: read_npy_files(name, files, held_out)) if {"inputs", "labels"} <= roles else None


def read_npz(name: str, path: Path, held_out: float = HELD_OUT) -> Source:
    """The arrays of an .npz: x and y, x_train ..., or train_images ... as MedMNIST has them."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return source_of_named(name, {key: arrays[key] for key in arrays.files}, held_out)
    except InputError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
        raise InputError(f"{str(path)!r} is no readable .npz of arrays: {' '.join(str(error).split())}") from error


def read_npy_files(name: str, files: Iterable[Path], held_out: float = HELD_OUT) -> Source:
    """The arrays of .npy files, ``train_inputs.npy``, ``train_labels.npy``, ``test_inputs.npy`` ...: samples stay on disk."""
    arrays: dict[str, Any] = {}
    for file in files:
        try:
            if role_of(file.stem)[1] == "inputs" and _stays(np.load(file, mmap_mode="r")):
                arrays[file.stem] = MappedArray.of(file, arrange=channels_first)
            else:
                arrays[file.stem] = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError, TypeError) as error:
            raise InputError(f"{str(file)!r} is no readable .npy of numbers: {' '.join(str(error).split())}") from error
    return source_of_named(name, arrays, held_out)


def source_of_named(name: str, arrays: Mapping[str, Any], held_out: float = HELD_OUT) -> Source:
    """The source of arrays whose names say their split and role.

    Raises:
        InputError: there are none that can be the samples and their labels, or two of one role.
    """
    found: dict[str, dict[str, str]] = {}
    for key in arrays:
        split, role = role_of(key)
        if role and (twice := found.setdefault(split, {}).setdefault(role, key)) != key:
            raise InputError(f"data source {name!r}: {twice!r} and {key!r} could both be the {role}: leave one out")
    whole = {split for split, roles in found.items() if {"inputs", "labels"} <= roles.keys()}
    train = "train" if "train" in whole else "" if "" in whole else None
    if train is None:
        held = some(sorted(arrays)) or "nothing"
        raise InputError(f"data source {name!r} holds {held}: fedkd reads arrays called {READ}")
    test = next((split for split in ("test", "validation") if split in whole), None)
    groups = {**found.get("", {}), **found[train]}.get("groups")
    used = {groups, *(found[split][role] for split in (train, test) if split is not None for role in ("inputs", "labels"))}
    if left := [key for key in sorted(arrays) if key not in used]:
        warnings.warn(f"data source {name!r}: left out: {some(left)}", Notice, stacklevel=2)

    def part(split: str) -> Split:
        return Split(arrays[found[split]["inputs"]], arrays[found[split]["labels"]])

    mine = part(train)
    given = Split(mine.inputs, mine.labels, None if groups is None else arrays[groups])
    return source_of_arrays(name, given, None if test is None else part(test), held_out=held_out)


def role_of(key: str) -> tuple[str, str]:
    """The split of an array and its role in it; empty where the name does not say.

    >>> role_of("train_images"), role_of("y_test"), role_of("X")
    (('train', 'inputs'), ('test', 'labels'), ('', 'inputs'))
    """
    words = words_of(key)
    splits = {SPELLINGS[word] for word in words if word in SPELLINGS}
    roles = [ROLES[word] for word in words if word in ROLES]
    if len(splits) > 1 or len(roles) != 1 or len(words) != len(splits) + 1:
        return "", ""
    return (splits.pop() if splits else ""), roles[0]


def _stays(array: Any) -> bool:
    """Whether a source takes these samples as they lie on disk."""
    kind, axes = array.dtype, array.ndim
    if not kind.isnative:
        return False
    return bool(
        (kind in (np.uint8, np.uint16) and axes in (3, 4))
        or (kind.kind == "f" and axes >= 2)
        or (kind == np.int64 and axes == 2)
    )
