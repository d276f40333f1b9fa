"""Recordings of thirty people: whose window is whose, what is left out, and a pickle that may name nothing else."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

import numpy as np
import old_frames
import pytest

from fedkd.data import load_source

WRITE = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "phone_activities.py"))["write"]


def recording(person: int, *stretches: tuple[int, int]) -> old_frames.DataFrame:
    """(label, length) one after the other; each signal says who it is of, and when."""
    labels = [label for label, length in stretches for _ in range(length)]
    times = np.arange(len(labels), dtype=np.float64)
    return old_frames.frame(1000.0 * person + times[:, None] + np.zeros((1, 6)), labels)


def test_a_window_is_one_activity_of_one_person_and_people_who_do_not_train_are_the_test(tmp_path: Path) -> None:
    """Person 2 is one of the nine of the data set's own test split. 9 is a shift between postures, -1 no label."""
    people = {
        1: [recording(1, (-1, 200), (1, 300), (9, 200), (4, 127)), recording(1, (6, 130))],
        2: [recording(2, (5, 128))],
        3: [recording(3, (2, 128), (2, 1), (3, 256), (4, 128), (5, 128))],
    }
    WRITE(tmp_path / "phone.npz", str(old_frames.write(tmp_path / "HAPT.pkl.gz", people)))
    source = load_source(str(tmp_path / "phone.npz"))
    assert (source.kind.name, source.shape) == ("sequence", (128, 6))
    assert source.train_labels.tolist() == [0, 0, 5, 1, 2, 2, 3, 4]
    assert source.groups is not None and source.groups.tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    starts = [int(window[0, 0]) for window in source.train_inputs]  # type: ignore[union-attr]
    assert starts == [1200, 1328, 1000, 3000, 3129, 3257, 3385, 3513]
    assert source.test_labels.tolist() == [4]


def test_a_pickle_that_names_something_else_is_refused(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "harm"),)

    file = old_frames.write(tmp_path / "HAPT.pkl.gz", {1: [Harm()]})
    with pytest.raises(SystemExit, match=r"HAPT\.pkl\.gz is not the package's file: it names posix\.mkdir"):
        WRITE(tmp_path / "phone.npz", str(file))
    assert not (tmp_path / "harm").exists()


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"there is no file .*gone: give res/HAPT\.pkl\.gz of the package"):
        WRITE(tmp_path / "phone.npz", str(tmp_path / "gone"))
