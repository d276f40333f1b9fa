"""strategies/ stands at the top of the repository and is imported as fedkd.strategies, from anywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def python(code: str, where: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(where)}
    return subprocess.run([sys.executable, "-c", code], cwd=where, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_strategies_are_found_in_a_plain_checkout_and_in_an_unpacked_bundle(tmp_path: Path) -> None:
    for folder in ("fedkd", "strategies"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    done = python("import fedkd.strategies.fedavg as module; print(module.__file__)", tmp_path)
    assert done.stdout.strip() == str(tmp_path / "strategies" / "fedavg.py"), done.stderr


def test_strategies_is_no_package_of_its_own() -> None:
    done = python("import strategies", ROOT)
    assert "import this package as fedkd.strategies" in done.stderr


def test_a_wheel_has_every_package_and_every_file_of_the_checkout() -> None:
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = {".".join(file.parent.relative_to(ROOT).parts) for file in (ROOT / "fedkd").rglob("__init__.py")}
    templates = {"fedkd.cli.templates.app", "fedkd.cli.templates.kit"}  # folders of texts, which setuptools wants named too
    assert packages | templates == set(setup["packages"])
    packed = {
        file
        for package, patterns in setup["package-data"].items()
        for pattern in patterns
        for file in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    files = {file for file in (ROOT / "fedkd").rglob("*") if file.is_file() and "__pycache__" not in file.parts}
    assert {file for file in files - packed if file.suffix != ".py"} == set()
