"""What the README prints runs as printed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fedkd.registry import strategies

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def run(command: str | list[str], where: Path) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        command, shell=isinstance(command, str), cwd=where, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_its_commands_run_as_printed(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "simulations", tmp_path / "simulations", ignore=shutil.ignore_patterns("results"))
    commands = [line for block in blocks("console") for line in block.splitlines() if line.startswith("fedkd ")]
    assert len(commands) >= 5
    for command in commands:
        run(command, tmp_path)
    assert (tmp_path / "runs" / "both.png").stat().st_size > 10_000
    assert (tmp_path / "runs" / "two" / "seed-1" / "report.html").is_file()


@pytest.mark.slow
def test_its_example_runs_as_printed(tmp_path: Path) -> None:
    example = next(block for block in blocks("python") if "simulate(" in block)
    assert "mean_last_five" in run([sys.executable, "-c", example], tmp_path)
    assert (tmp_path / "runs" / "first" / "convergence.png").is_file()


def test_its_losses_and_targets_run_as_printed() -> None:
    example = next(block for block in blocks("python") if "fedkd.targets" in block)
    names: dict[str, object] = {}
    exec(example, names)
    assert names["student"].grad.isfinite().all()  # type: ignore[attr-defined]


def test_its_table_names_every_strategy_as_the_strategies_do() -> None:
    for name, cls in strategies().items():
        assert f"| `{name}` | {cls.paper} | {cls.sends} |" in README
