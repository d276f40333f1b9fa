"""A SuperLink with TLS and three SuperNodes with keys, started by the very commands that `fedkd deploy-kit` writes."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from programs import Program, Programs, flower_environment, free_ports, listens
from test_deployment import app_of, rows

from fedkd import Experiment, simulate
from fedkd.cli.deploy_kit import node_keys, write_kit

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent
CLIENTS = 3
DATA = {"clients": CLIENTS, "partition": "iid", "public": 60, "train_limit": 400, "test_limit": 100}
SMALL = {"cnn": {"channels": (4, 8), "hidden": 16}}
#: They remember what the other end acknowledged.
CODECS = {"uplink": ("top4", "delta", "deflate"), "downlink": ("delta", "deflate")}
EXPERIMENTS: dict[str, dict[str, Any]] = {
    "fedmd": {"strategy": "fedmd", "nets": {"cnn": 0.5, "mlp": 0.5}, "net_options": SMALL, "data": DATA, **CODECS},
    "fedx": {"strategy": "fedx", "nets": "cnn", "net_options": SMALL, "data": DATA | {"public": 0}},
    "dml": {"strategy": "dml", "nets": "mlp", "data": DATA | {"public": 0, "partition": "shared"}, "train": {"steps": 2}},
    "codistillation": {"strategy": "codistillation", "nets": "mlp", "data": DATA | {"public": 0}},
}


@dataclass
class Deployment:
    """A running SuperLink and its nodes."""

    kit: Path
    link: int
    programs: Programs
    superlink: Program
    nodes: list[Program]
    commands: list[list[str]]

    def run(self, app: Path, out: Path, **overrides: object) -> Program:
        """``flwr run``, from its start to its end."""
        program = self.start(app, out, **overrides)
        self.programs.wait_until("flwr run has ended", lambda: program.process.poll() is not None, 400, ends=program)
        self.programs.forget(program)
        assert program.process.returncode == 0, self.programs.report(f"flwr run failed\n{program.log_tail()}")
        return program

    def start(self, app: Path, out: Path, **overrides: object) -> Program:
        config = " ".join([f"out='{out}'", *(f"{key}={value}" for key, value in overrides.items())])
        command = [f"{BIN}/flwr", "run", str(app), "kit", "--stream", "--run-config", config]
        return self.programs.start(f"flwr-{out.name}", *command)


def commands_of(kit: Path) -> list[list[str]]:
    """The commands in the kit's README, in their order, each as its words."""
    text = (kit / "README.md").read_text().replace("\\\n", " ")
    return [shlex.split(line) for line in re.findall(r"^    (fl.*|fedkd supernode .*)$", text, re.MULTILINE)]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("secure")
    kit = folder / "kit"
    link, *ports = free_ports(1 + CLIENTS)
    write_kit(kit, CLIENTS, "127.0.0.1", link, ports[0])
    commands = commands_of(kit)
    with Programs(kit, flower_environment(kit / "flower")) as programs:
        superlink = start_superlink(programs, kit, link)
        for command in commands:
            if command[:3] == ["flwr", "supernode", "register"]:
                subprocess.run([f"{BIN}/flwr", *command[1:]], cwd=kit, env=flower_environment(kit / "flower"), check=True)
        starts = [command for command in commands if command[0] == "fedkd"]
        for command, port in zip(starts, ports, strict=True):
            command[command.index("--port") + 1] = str(port)
        nodes = [programs.start(f"supernode-{client}", f"{BIN}/{words[0]}", *words[1:]) for client, words in enumerate(starts)]
        yield Deployment(kit, link, programs, superlink, nodes, starts)


def start_superlink(programs: Programs, kit: Path, port: int) -> Program:
    command = next(command for command in commands_of(kit) if command[0] == "flower-superlink")
    program = programs.start("superlink", f"{BIN}/{command[0]}", *command[1:])
    programs.wait_until("the SuperLink listens", lambda: listens(port), 120)
    return program


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_run_over_tls_gives_the_rows_of_the_in_process_run(name: str, deployment: Deployment, tmp_path: Path) -> None:
    experiment = Experiment(rounds=2, evaluate_every=2, timeout=300.0, **EXPERIMENTS[name])
    deployed, here = tmp_path / name, tmp_path / "here"
    shown = deployment.run(app_of(experiment, tmp_path / "app"), deployed)
    simulate(experiment, out=here)
    for file in ("metrics.jsonl", "clients.jsonl"):
        assert rows(deployed / file) == rows(here / file)
    assert [row["clients_ok"] for row in rows(deployed / "metrics.jsonl")] == [0, CLIENTS, CLIENTS]
    assert "round 2/2  accuracy" in shown.log.read_text(), "flwr run --stream shows each round"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (
            {"--auth-supernode-private-key": "other-key"},
            r"code: 2004",
        ),
        ({"--root-certificates": None, "--auth-supernode-private-key": None, "--insecure": ""}, "(?i)failed to initialize"),
    ],
    ids=["a key that is not registered", "no TLS"],
)
def test_who_may_not_join_is_refused_and_told_why(
    changed: dict[str, str | None], reason: str, deployment: Deployment, tmp_path: Path
) -> None:
    private, _ = node_keys("stranger")
    (deployment.kit / "other-key").write_bytes(private)
    options = dict(zip(deployment.commands[0][2::2], deployment.commands[0][3::2], strict=True))
    options |= {key: value for key, value in changed.items() if value is not None} | {"--port": str(free_ports(1)[0])}
    words = [word for key, value in options.items() if changed.get(key, "") is not None for word in (key, value) if word]
    stranger = deployment.programs.start("stranger", f"{BIN}/fedkd", "supernode", *words, "--max-retries", "1")
    deployment.programs.wait_until("the stranger has ended", lambda: stranger.process.poll() is not None, 60, ends=stranger)
    deployment.programs.forget(stranger)
    assert stranger.process.returncode != 0
    assert re.search(reason, stranger.log.read_text()), stranger.log_tail()


def test_a_superlink_that_is_killed_knows_its_nodes_again_and_the_run_goes_on(deployment: Deployment, tmp_path: Path) -> None:
    experiment = Experiment(rounds=4, evaluate_every=4, timeout=300.0, **EXPERIMENTS["fedmd"])
    app, out, programs = app_of(experiment, tmp_path / "app"), tmp_path / "out", deployment.programs
    flwr = deployment.start(app, out)
    written = out / "metrics.jsonl"
    programs.wait_until("a round is over", lambda: written.exists() and len(rows(written)) >= 2, 200)
    for program in (flwr, deployment.superlink):
        programs.forget(program)
        program.kill()
    deployment.superlink = start_superlink(programs, deployment.kit, deployment.link)
    deployment.run(app, out, resume="true")
    simulate(experiment, out=tmp_path / "here")
    for file in ("metrics.jsonl", "clients.jsonl"):
        assert rows(out / file) == rows(tmp_path / "here" / file)


def test_a_node_that_is_killed_is_missed_and_comes_back_with_its_key(deployment: Deployment, tmp_path: Path) -> None:
    """Two of three are enough meanwhile. The SuperLink lets it in again when it has missed it, after half a minute or so."""
    experiment = Experiment(rounds=500, evaluate_every=500, enough=0.6, timeout=120.0, **EXPERIMENTS["fedmd"])
    out, programs = tmp_path / "out", deployment.programs

    def done_by(client: int) -> list[int]:
        lines = rows(out / "clients.jsonl") if (out / "clients.jsonl").exists() else []
        return [line["round"] for line in lines if line["client"] == client and line.get("status") == "ok" and line["round"]]

    flwr = deployment.start(app_of(experiment, tmp_path / "app"), out)
    programs.wait_until("client 2 has done a round", lambda: bool(done_by(2)), 120)
    victim = deployment.nodes[2]
    programs.forget(victim)
    victim.kill()
    before = len(done_by(0))
    programs.wait_until("the others have gone on", lambda: len(done_by(0)) >= before + 3, 60)
    missed = max(done_by(0))

    def restart() -> Program:
        return programs.start("again", f"{BIN}/fedkd", *deployment.commands[2][1:])

    again = restart()
    deadline = time.monotonic() + 120
    while not any(round > missed for round in done_by(2)):
        assert time.monotonic() < deadline, programs.report("the node did not come back")
        if again.process.poll() is not None:  # refused: it is still believed to be there
            assert "code: 2004" in again.log.read_text()
            programs.forget(again)
            again = restart()
        time.sleep(0.5)
    programs.forget(flwr)
    flwr.stop()
    assert "go on without what they kept" not in (deployment.kit / "superlink.log").read_text()
