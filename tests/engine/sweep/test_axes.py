"""From a grid as typed to cells: each checked, in a place of its own, whatever the values are."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedkd import InputError
from fedkd.engine.sweep.axes import cells_of_grid, parse_axes
from fedkd.engine.sweep.estimate import makespan, trials

FILE = """\
rounds = 2
nets = "mlp"
seed = 4
[strategy]
name = "fedprox"
mu = 0.5
[data]
clients = 2
partition = "iid"
train_limit = 60
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "small.toml").write_text(FILE)
    return tmp_path / "small.toml"


def test_the_product_of_the_axes_has_readable_places(file: Path, tmp_path: Path) -> None:
    axes = parse_axes(["strategy=fedprox,fedavg", "train.lr=0.1,0.5"])
    cells = cells_of_grid(file, {"rounds": "1"}, axes, [0, 3], tmp_path / "out")
    assert [cell.out.relative_to(tmp_path / "out").as_posix() for cell in cells] == [
        f"strategy={strategy},lr={lr}/seed-{seed}"
        for strategy in ("fedprox", "fedavg")
        for lr in ("0.1", "0.5")
        for seed in (0, 3)
    ]
    assert [(cell.experiment.train.lr, cell.experiment.seed, cell.experiment.rounds) for cell in cells[:3]] == [
        *((0.1, 0, 1), (0.1, 3, 1), (0.5, 0, 1))
    ]


def test_the_files_own_strategy_keeps_its_keys_and_another_one_does_without_them(file: Path, tmp_path: Path) -> None:
    first, second = cells_of_grid(file, {}, {"strategy": ["fedprox", "moon"]}, None, tmp_path / "out")
    assert first.experiment.strategy.mu == 0.5  # type: ignore[attr-defined]
    assert type(second.experiment.strategy).__name__ == "MOON" and second.out.name == "seed-4"  # the file's seed
    both = cells_of_grid(file, {}, {"strategy.mu": ["0.1", "1"], "strategy": ["fedprox", "moon"]}, None, tmp_path / "out")
    assert [cell.experiment.strategy.mu for cell in both] == [0.1, 0.1, 1.0, 1.0]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"strategy": ["fedprox", "fedavgg"]}, "^strategy=fedavgg: strategy.name: unknown strategy 'fedavgg'"),
        ({"train.lr": ["0.1", "fast"]}, "^lr=fast: train.lr"),
        ({"data.partition": ["iid", "dirchlet"]}, "^partition=dirchlet: unknown data.partition"),
        ({"data.clients": ["2", "80"]}, "^clients=80: "),  # more clients than samples
        ({"rounds": ["2"]}, "rounds is an axis of the grid and is set too"),
    ],
)
def test_a_bad_cell_is_named_before_any_runs(axes: dict[str, list[str]], message: str, file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        cells_of_grid(file, {"rounds": "3"}, axes, [0], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["data.alpha", "=1", "data.alpha=", "data..alpha=1", "data.alpha=1,,2", "seed=1,2"])
def test_axes_mistyped(text: str) -> None:
    with pytest.raises(InputError, match="--grid"):
        parse_axes([text])
    with pytest.raises(InputError, match="has an axis already"):
        parse_axes(["strategy=fedavg", "strategy.name=fedmd"])


def test_values_that_make_one_place_are_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two cells would lie in"):
        cells_of_grid(file, {}, {"net_options.mlp.hidden": ["[4,8]", "[4, 8]"]}, [0], tmp_path / "out")


def test_trials_end_when_they_have_taken_long_enough(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = cells_of_grid(file, {}, {"train.lr": ["0.1", "0.2", "0.3"]}, [0, 1], tmp_path / "out")
    assert list(trials(cells, lambda experiment: experiment.train.lr).values()) == [0.1, 0.2, 0.3]  # one a group
    monkeypatch.setattr("fedkd.engine.sweep.estimate.TRIAL_SECONDS", 0.0)
    assert trials(cells, lambda experiment: 1.0) == {}


def test_the_last_of_jobs_that_go_to_whoever_is_free() -> None:
    assert makespan([5.0, 1.0, 1.0, 1.0], jobs=2) == 5.0
    assert makespan([1.0] * 5, jobs=2) == 3.0
