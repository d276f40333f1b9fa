"""What a run ran on: versions, hardware and git state, without user names, host names or absolute paths."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fedkd.base.energy import Energy

PACKAGES = ("fedkd", "torch", "flwr", "flwr-datasets", "ray", "numpy")


def environment() -> dict[str, Any]:
    """The content of ``env.json``. Memory is in bytes; ``git`` is None outside a checkout; ``energy``: why none is measured."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command(sys.argv),
        "versions": versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cores": cores(),
        "memory": memory(),
        "gpus": gpus(),
        "energy": Energy().why_not,
        "git": git_state(Path.cwd()),
    }


def command(words: Sequence[str]) -> str:
    """The command line as it was typed, without the folders of absolute paths, which may tell a user's name.

    >>> command(["/home/ann/bin/fedkd", "run", "/home/ann/my.toml", "--set", "data.path=/data/x", "--out", "runs/a b"])
    "fedkd run my.toml --set data.path=x --out 'runs/a b'"
    """
    return shlex.join(re.sub(r"(?<![\w.])[/~][^\s=,\"']*/", "", word) for word in words)


def versions() -> dict[str, str | None]:
    """Installed versions by package, None where a package is missing; nothing is imported."""
    return {package: _version(package) for package in PACKAGES}


def read_environment(path: Path) -> dict[str, Any]:
    """What a run's ``env.json`` says; nothing where it is missing or damaged, as no result rests on it."""
    try:
        environment = json.loads((path / "env.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return environment if isinstance(environment, dict) else {}


def packages_since(path: Path) -> dict[str, tuple[str | None, str | None]]:
    """Packages that are of another version than when a run's ``env.json`` was written, with both versions."""
    before = read_environment(path).get("versions")
    if not isinstance(before, dict):
        return {}
    return {name: (before[name], now) for name, now in versions().items() if name in before and before[name] != now}


def cpu_model() -> str:
    """The processor's name, as the operating system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """The number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> int:
    """Bytes of memory this process may use: the machine's, or its control group's limit where that is less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")]
    texts = [path.read_text().strip() for path in limits if path.exists()]
    return min([machine, *(int(text) for text in texts if text.isdigit())])


def gpus() -> list[str]:
    """Names of the CUDA devices that torch sees."""
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the checkout that holds ``folder`` and whether tracked files differ from it; None outside of one."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):  # no git here, or a file system that hangs
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
