"""A SuperLink and two SuperNodes on three machines, which are network namespaces here, by the commands of `fedkd deploy-kit`.

The app is the one that `fedkd new` writes. Each machine sees the others by their addresses only, and nothing else of the net.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import Programs, flower_environment
from test_deployment import rows
from test_secure_deployment import commands_of

from fedkd import Experiment, simulate
from fedkd.cli.deploy_kit import write_kit
from fedkd.cli.new import write_app

BIN = Path(sys.executable).parent
ADDRESS = "10.213.7"
NODES = 2


def ip(*words: str) -> bool:
    return subprocess.run(["ip", *words], capture_output=True).returncode == 0


@pytest.fixture
def machines() -> Iterator[list[str]]:
    """Namespaces by name, each with an address: the first has ADDRESS.1, and a bridge to which the others are tied."""
    names = [f"fedkd-{os.getpid()}-{place}" for place in range(1 + NODES)]
    if not shutil.which("ip") or not ip("netns", "add", names[0]):
        pytest.skip("no right to make network namespaces")
    first = names[0]
    try:
        made = ip("-n", first, "link", "add", "bridge0", "type", "bridge")
        made &= ip("-n", first, "addr", "add", f"{ADDRESS}.1/24", "dev", "bridge0") and ip(
            "-n", first, "link", "set", "bridge0", "up"
        )
        for place, name in enumerate(names):
            made &= place == 0 or ip("netns", "add", name)
            made &= ip("-n", name, "link", "set", "lo", "up")
            if place:
                made &= ip("-n", first, "link", "add", f"to{place}", "type", "veth", "peer", "name", "eth0", "netns", name)
                made &= ip("-n", first, "link", "set", f"to{place}", "master", "bridge0", "up")
                made &= ip("-n", name, "addr", "add", f"{ADDRESS}.{place + 1}/24", "dev", "eth0")
                made &= ip("-n", name, "link", "set", "eth0", "up")
        if not made:
            pytest.skip("this kernel ties no network namespaces together")
        yield names
    finally:
        for name in names:
            ip("netns", "del", name)


@pytest.mark.slow
def test_three_machines_give_the_rows_of_one_process(machines: list[str], tmp_path: Path) -> None:
    kit, app, out = tmp_path / "kit", write_app(tmp_path / "my-app", "me"), tmp_path / "first"
    write_kit(kit, NODES, f"{ADDRESS}.1", 8000, 9094)
    environment = flower_environment(kit / "flower") | {
        "NO_PROXY": f"127.0.0.1,{ADDRESS}.1",
        "no_proxy": f"127.0.0.1,{ADDRESS}.1",
    }
    on = [["ip", "netns", "exec", name] for name in machines]
    with Programs(kit, environment) as programs:
        superlink, *others = commands_of(kit)
        link = programs.start("superlink", *on[0], f"{BIN}/{superlink[0]}", *superlink[1:])
        programs.wait_until("the SuperLink is up", lambda: "Uvicorn running" in link.log.read_text(), 120)
        for command in others:
            if command[:3] == ["flwr", "supernode", "register"]:
                subprocess.run([*on[0], f"{BIN}/{command[0]}", *command[1:]], cwd=kit, env=environment, check=True)
        for place, command in enumerate(command for command in others if command[0] == "fedkd"):
            programs.start(f"supernode-{place}", *on[1 + place], f"{BIN}/{command[0]}", *command[1:])
        (shown,) = re.findall(r"^    (flwr run .*)$", (kit / "README.md").read_text(), re.MULTILINE)
        words = [str(app) if word == "my-app" else word for word in shlex.split(shown)]
        words[-1] = f"data.clients={NODES} rounds=2 out='{out}'"
        flwr = programs.start("flwr", *on[0], f"{BIN}/{words[0]}", *words[1:])
        programs.wait_until("flwr run has ended", lambda: flwr.process.poll() is not None, 300, ends=flwr)
        assert flwr.process.returncode == 0 and (out / "report.html").exists(), programs.report("flwr run failed")
    sys.path.insert(0, str(app))
    try:
        simulate(Experiment.from_toml(app / "pyproject.toml", {"rounds": "2"}), out=tmp_path / "here")
    finally:
        sys.path.remove(str(app))
    for name in ("metrics.jsonl", "clients.jsonl"):
        assert rows(out / name) == rows(tmp_path / "here" / name)
