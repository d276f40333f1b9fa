"""What the README prints runs as printed."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedkd.experiment.registry import strategies

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
FLOWER_APP = """
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client_app, server_app = ClientApp(), ServerApp()


@client_app.train()
def train(message, context):
    return Message(RecordDict({"said": ConfigRecord({"lr": context.run_config["lr"]})}), reply_to=message)


@server_app.main()
def main(grid, context):
    messages = [Message(RecordDict(), node, "train") for node in grid.get_node_ids()]
    assert [reply.content["said"]["lr"] for reply in grid.send_and_receive(messages)] == [0.1] * 100
"""


def run(command: list[str], where: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    python_path = os.pathsep.join(filter(None, (str(where), os.environ.get("PYTHONPATH"))))  # Ray's workers import from there
    environment = {**os.environ, "PATH": path, "PYTHONPATH": python_path}
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def last_row(run_directory: Path) -> dict[str, Any]:
    row: dict[str, Any] = json.loads((run_directory / "metrics.jsonl").read_text().splitlines()[-1])
    return row


@pytest.mark.slow
def test_every_block_runs_as_printed_in_the_order_of_the_page(tmp_path: Path) -> None:
    """An experiment file is run as it stands and ends above chance; commands and programs end well."""
    shutil.copytree(ROOT / "simulations", tmp_path / "simulations", ignore=shutil.ignore_patterns("results"))
    (tmp_path / "my_flower_app.py").write_text(FLOWER_APP)
    assert {language for language, _ in BLOCKS} == {"python", "console", "toml"}
    for number, (language, text) in enumerate(BLOCKS):
        if language == "console":
            for command in text.splitlines():
                run(shlex.split(command), tmp_path)
        elif language == "toml":
            (tmp_path / f"block-{number}.toml").write_text(text)
            run(["fedkd", "run", f"block-{number}.toml", "--out", f"runs/block-{number}", "--quiet"], tmp_path)
            assert last_row(tmp_path / "runs" / f"block-{number}")["accuracy"] > 0.5, text
        else:
            name = found[1] if (found := re.match(r"# (\w+\.py)\n", text)) else f"block-{number}.py"
            (tmp_path / name).write_text(text)
            run([sys.executable, name], tmp_path)
    assert (tmp_path / "runs" / "both.png").stat().st_size > 10_000
    assert (tmp_path / "runs" / "two" / "seed-1" / "report.html").is_file()
    assert (tmp_path / "runs" / "first" / "convergence.png").is_file()


def test_its_table_names_every_strategy_as_the_strategies_do() -> None:
    for name, cls in strategies().items():
        assert f"| `{name}` | {cls.paper} | {cls.sends} |" in README
