"""fedkd new writes an app that runs as it is, and whole or not at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fedkd import Experiment
from fedkd.base.errors import InputError
from fedkd.cli.new import FILES, write_app

COMMAND = [sys.executable, "-c", "from fedkd.cli import main; main()"]


def test_the_files_are_there_and_nothing_is_left_to_fill_in(tmp_path: Path) -> None:
    place = write_app(tmp_path / "My-app", "me")
    written = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
    assert written == {path.format(package="my_app") for path in FILES.values()} | {"my_app/__init__.py"}
    assert not [path for path in place.rglob("*") if path.is_file() and "$" in path.read_text()]
    assert [path.name for path in tmp_path.iterdir()] == ["My-app"]


@pytest.mark.parametrize(
    ("name", "publisher", "message"),
    [
        ("9lives", "me", "is no name for a project"),
        ("my app", "me", "is no name for a project"),
        ("torch", "me", "a package 'torch' is there already"),
        ("app", "a b", "--publisher"),
    ],
)
def test_a_bad_name_is_refused_and_nothing_is_written(name: str, publisher: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        write_app(tmp_path / name, publisher)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    with pytest.raises(InputError, match="is there already"):
        write_app(tmp_path / "app", "me")
    assert list((tmp_path / "app").iterdir()) == []


def test_an_experiment_may_stand_in_a_flower_apps_file(tmp_path: Path) -> None:
    file = tmp_path / "pyproject.toml"
    file.write_text(
        '[project]\nname = "app"\n\n[tool.flwr.app.config]\nout = ""\nresume = false\nrounds = 4\nuplink = "top4,deflate"\n'
        'nets = "cnn:0.5,mlp:0.5"\nstrategy.name = "dsfl"\n\n[tool.flwr.app.config.data]\npublic = 100\n'
    )
    experiment = Experiment.from_toml(file, {"rounds": "5"})
    assert (experiment.rounds, experiment.uplink, experiment.data.public) == (5, ("top4", "deflate"), 100)
    assert experiment.nets == {"cnn": 0.5, "mlp": 0.5}
    file.write_text('[project]\nname = "app"\n')
    with pytest.raises(InputError, match=r"without \[tool.flwr.app.config\].*\(pyproject.toml\)"):
        Experiment.from_toml(file)


@pytest.mark.slow
def test_the_app_runs_under_fedkd_run_and_its_own_test_passes(tmp_path: Path) -> None:
    app = write_app(tmp_path / "my-app", "me")
    done = subprocess.run([*COMMAND, "run", "pyproject.toml"], cwd=app, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (app / "runs" / "my-app-fedmd-s0" / "report.html").exists()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], cwd=app, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
