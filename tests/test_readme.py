"""What the README prints runs as printed, from a fresh clone."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from printed import PAGES, ROOT, blocks, links, name_of

README = ROOT / "README.md"


def run(command: list[str], where: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"


@pytest.mark.slow
def test_every_block_runs_as_printed_in_the_order_of_the_page(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "simulations", tmp_path / "simulations", ignore=shutil.ignore_patterns("results"))
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(Path(sys.executable).parent)  # as `make demo` leaves it
    for number, (language, text) in enumerate(blocks(README)):
        if language == "console":
            for command in text.splitlines():
                run(shlex.split(command), tmp_path)
        else:
            (tmp_path / name_of(text, number)).write_text(text)
            run([sys.executable, name_of(text, number)], tmp_path)
    assert (tmp_path / "runs" / "both.png").stat().st_size > 10_000
    assert (tmp_path / "runs" / "two" / "seed-1" / "report.html").is_file()
    assert (tmp_path / "runs" / "first" / "convergence.png").is_file()
    assert (tmp_path / "runs" / "mine" / "metrics.jsonl").is_file()


def test_it_fits_on_a_screen_or_two() -> None:
    assert len(README.read_bytes()) <= 8_000


@pytest.mark.parametrize("page", [README, ROOT / "CONTRIBUTING.md", *PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    wanted = [page.parent / target for target in links(page) if "generated/" not in target]
    assert [str(path) for path in wanted if not path.exists()] == []
