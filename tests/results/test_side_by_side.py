"""benchmarks/side_by_side.py: fedkd beside another library's own code, of which the tests need no copy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_both_codes_get_the_same_images(tmp_path: Path) -> None:
    from peers import htfllib

    for part, many in (("train", 9), ("test", 5)):
        (tmp_path / "dataset" / "mnist" / part).mkdir(parents=True)
        for client in range(htfllib.CLIENTS):
            held = {"x": np.random.default_rng(client).random((many, 1, 28, 28)), "y": np.arange(many)}
            np.savez(tmp_path / "dataset" / "mnist" / part / f"{client}.npz", data=np.array(held, dtype=object))
    htfllib.write_partition(tmp_path, {"images": 6, "test_images": 4}, seed=1)
    for client in range(htfllib.CLIENTS):
        ours = np.load(tmp_path / "client" / f"{client:02}.npz")
        for part, many in (("train", 6), ("test", 4)):
            with np.load(tmp_path / "dataset" / "drawn" / part / f"{client}.npz", allow_pickle=True) as file:
                theirs = file["data"].item()
            assert len(theirs["y"]) == many
            assert (ours[f"x_{part}"] == theirs["x"]).all()
            assert (ours[f"y_{part}"] == theirs["y"]).all()


def test_an_edit_that_finds_nothing_to_change_is_refused(tmp_path: Path) -> None:
    from peers.htfllib_edits import Edit, apply

    (tmp_path / "client.py").write_text("loss = teacher\n")
    apply(Edit("client.py", "teacher", "teacher.detach()", "a teacher is a constant"), tmp_path)
    assert (tmp_path / "client.py").read_text() == "loss = teacher.detach()\n"
    with pytest.raises(ValueError, match=r"client.py has no 'student'"):
        apply(Edit("client.py", "student", "pupil", ""), tmp_path)


def test_a_copy_that_is_missing_or_of_another_commit_is_named_with_the_cure(tmp_path: Path) -> None:
    import side_by_side

    assert side_by_side.why_not("").startswith("--code: where your copy of HtFLlib lies is not said: git clone https")
    nothing = tmp_path / "nothing"
    assert side_by_side.why_not(str(nothing)).startswith(f"--code {nothing}: there is no git copy of HtFLlib: git clone https")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "another"], check=True)
    assert f"and not e959261d90: git -C {tmp_path} checkout e959261d" in side_by_side.why_not(str(tmp_path))


def test_the_largest_gap_is_over_the_rounds_after_the_first_aggregation() -> None:
    import side_by_side

    ours, theirs = {"curve": [0.1, 0.5, 0.75]}, {"curve": [0.0, 0.5, 0.5]}
    assert side_by_side.gap(ours, theirs) == 25


def test_the_page_shows_the_tables_of_the_committed_rows() -> None:
    import side_by_side
    from peers import htfllib

    cells = side_by_side.cells_of([*htfllib.SETTINGS], [*htfllib.METHODS], [0, 1, 2])
    page = (ROOT / "docs" / "results" / "side_by_side.md").read_text()
    for setting in htfllib.SETTINGS:
        assert side_by_side.table(side_by_side.there(cells), setting) in page


@pytest.mark.slow
def test_without_a_copy_the_command_ends_with_one_line() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "side_by_side.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
