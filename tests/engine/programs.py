"""Programs that a test starts, each with a log, and with its children all stopped at the end of the block."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self


@dataclass(frozen=True)
class Program:
    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def log_tail(self, lines: int = 40) -> str:
        tail = self.log.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join([f"---- {self.name} (process {self.process.pid}), end of its log:", *tail])

    def kill(self) -> None:
        """End it and whatever it started, all at once."""
        self.stop(patience=0.0, signal_first=signal.SIGKILL)

    def stop(self, patience: float = 10.0, signal_first: int = signal.SIGTERM) -> None:
        """Ask it to end, then end it and whatever it started, in sessions of their own too."""
        started = descendants(self.process.pid)
        self.process.send_signal(signal_first)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(patience)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for process in set(started) & set(processes()):
            with suppress(ProcessLookupError):
                os.kill(process.id, signal.SIGKILL)
        self.process.wait(10)


class Process(NamedTuple):
    id: int
    began: str  # an id is given again, an id and a time of birth are not


def processes() -> dict[Process, int]:
    """All processes, each with the id of its parent; none where there is no /proc."""
    found = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            after_name = file.read_text().rpartition(")")[2].split()  # state, parent, ..., the 20th is when it began
            found[Process(int(file.parent.name), after_name[19])] = int(after_name[1])
    return found


def descendants(root: int) -> list[Process]:
    """The children of a process, their children, and so on."""
    parents, family = processes(), [Process(root, "")]
    for member in family:  # grows as it goes
        family += [process for process, parent in parents.items() if parent == member.id]
    return family[1:]


def wait_until_ended(started: Iterable[Process], seconds: float) -> None:
    """Poll until none of these processes is there. AssertionError when time is up."""
    deadline = time.monotonic() + seconds
    while left := set(started) & set(processes()):
        assert time.monotonic() < deadline, f"after {seconds:g} s these have not ended: {left}"
        time.sleep(0.1)


class Programs:
    """``with Programs(folder, environment) as programs:`` logs go to ``folder``."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder, self._environment = folder, dict(environment)
        self._started: list[Program] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for program in reversed(self._started):
            program.stop()

    def start(self, name: str, *command: str) -> Program:
        log = self._folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started.append(program := Program(name, process, log))
        return program

    def forget(self, program: Program) -> None:
        """Watch over a program no more that has ended, as it should."""
        self._started.remove(program)

    def wait_until(self, what: str, condition: Callable[[], bool], seconds: float, *, ends: Program | None = None) -> None:
        """Poll until the condition holds. AssertionError with logs when time is up or a program dies; ``ends`` may end."""
        deadline = time.monotonic() + seconds
        while not condition():
            if dead := [p for p in self._started if p is not ends and p.process.poll() is not None]:
                raise AssertionError(self.report(f"{dead[0].name} died while the test waited until {what}"))
            if time.monotonic() > deadline:
                raise AssertionError(self.report(f"after {seconds:g} s it is still not so that {what}"))
            time.sleep(0.1)

    def report(self, message: str) -> str:
        return "\n".join([message, *(program.log_tail() for program in self._started)])


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def listens(port: int) -> bool:
    """Whether somebody takes connections on this port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def flower_environment(home: Path) -> dict[str, str]:
    """Nothing of the user's own Flower, nothing over the network, and no second lost between a task and its process."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(home),
        "FLWR_LOG_LEVEL": "INFO",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
