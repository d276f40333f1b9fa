"""`fedkd demo` is what a newcomer sees first: its gain is real, and it ends with what the package makes of runs."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from fedkd import Experiment, simulate
from fedkd.cli import sweep
from fedkd.cli.demo import demo
from fedkd.results.recorded import find_runs

FILE = Path(str(files("fedkd.cli.templates") / "demo.toml"))


@pytest.mark.slow
def test_nets_of_two_kinds_learn_from_each_other() -> None:
    together = Experiment.from_toml(FILE, {"rounds": "5"})
    alone = together.replace(strategy="local")
    assert set(together.architectures) == {"cnn", "mlp"}
    gain = simulate(together).summary()["last"] - simulate(alone).summary()["last"]
    assert gain > 0.1  # seeds 0 to 2 have 0.2 and more


@pytest.mark.slow
def test_the_demo_writes_nine_runs_a_report_and_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sweep, "parse_changes", lambda changes: {"rounds": "1", "data.train_limit": "200", "data.public": "50"})
    demo(tmp_path / "demo")
    assert sorted(path.name for path in (tmp_path / "demo").iterdir() if path.is_file()) == [
        *("comparison.csv", "comparison.md", "convergence.png", "convergence.svg", "report.html")
    ]
    runs = find_runs([tmp_path / "demo"])
    assert [(run.strategy, run.seed) for run in runs] == [
        (name, seed) for name in ("centralised", "fedmd", "local") for seed in range(3)
    ]
    assert all(run.finished for run in runs)
    assert f"report: {tmp_path / 'demo' / 'report.html'}" in capsys.readouterr().out
