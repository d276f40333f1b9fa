"""Whatever happens to the files of a run, readers either do without or say in one line which file is wrong."""

from __future__ import annotations

import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from test_resume import PowerCut, cut_after

from fedkd import Experiment, InputError, simulate
from fedkd.base.errors import RunFailed
from fedkd.cli.launch import resumed
from fedkd.results.curves import check_measured
from fedkd.results.figures.convergence import convergence
from fedkd.results.recorded import RecordedRun, find_runs
from fedkd.results.report import write_report

EXPERIMENT = Experiment(rounds=3, nets="mlp", net_options={"mlp": {"hidden": [4]}}, data={"clients": 2, "train_limit": 40})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run, and one that was cut off after round 2 of 3."""
    place = tmp_path_factory.mktemp("runs")
    simulate(EXPERIMENT, out=place / "finished")
    with pytest.raises(PowerCut):
        simulate(EXPERIMENT, out=place / "cut", on_round=cut_after(2))
    return {name: place / name for name in ("finished", "cut")}


def resume(path: Path) -> None:
    launch = resumed(path, {})
    simulate(launch.experiment, out=path, resume=True)


def plot(path: Path) -> None:
    found = find_runs([path])
    check_measured(found, "accuracy")
    convergence(found, path.parent / "figure.png")


def report(path: Path) -> None:
    write_report(RecordedRun.read(path), path.parent / "report.html")


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Cut short, with some bytes changed, a line lost or doubled, or emptied."""
    lines, at = content.splitlines(keepends=True), rng.randrange(max(1, len(content)))
    number = rng.randrange(max(1, len(lines)))
    return rng.choice(
        [
            content[:at],
            content[:at] + bytes(rng.randrange(256) for _ in range(3)) + content[at + 3 :],
            b"".join(lines[:number] + lines[number + 1 :]),
            b"".join(lines[: number + 1] + lines[number:]),
            b"".join(reversed(lines)),
            b"{}",
        ]
    )


def one_line_at_most(read: Callable[[Path], None], path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read(path)
        except (InputError, RunFailed) as error:
            assert "\n" not in str(error) and len(str(error)) > 20


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("run", "read"), [("cut", resume), ("finished", plot), ("finished", report), ("cut", plot)])
def test_every_file_may_be_damaged(
    run: str, read: Callable[[Path], None], seed: int, runs: dict[str, Path], tmp_path: Path
) -> None:
    rng = random.Random(f"{run} {seed}")
    for file in sorted(file for file in runs[run].rglob("*") if file.is_file()):
        copy = Path(shutil.copytree(runs[run], tmp_path / "copy"))
        victim = copy / file.relative_to(runs[run])
        if seed == 0:
            victim.unlink()
        else:
            victim.write_bytes(damaged(victim.read_bytes(), rng))
        one_line_at_most(read, copy)
        shutil.rmtree(copy)
