"""Flower's SuperNode, kept warm: how long it waits, and which process gets which task."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from io import StringIO
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest

from fedkd.base.errors import Notice
from fedkd.grids.backoff import FIRST_BACKOFF
from fedkd.grids.supernode import executor as executors
from fedkd.grids.supernode import node, worker
from fedkd.grids.supernode.patience import SHORTEST, Patience


@dataclass
class Clock:
    """Time passes only while somebody sleeps."""

    now: float = 0.0
    waits: list[float] = field(default_factory=list)

    def read(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.waits.append(seconds)


def test_one_looks_often_at_first_and_then_ever_less_but_never_later_than_flower_would() -> None:
    clock = Clock()
    patience = Patience(clock.read, clock.sleep)
    while clock.now < 100:
        patience.sleep(3)
    assert clock.waits[0] == SHORTEST and clock.waits == sorted(clock.waits) and clock.waits[-1] == 3
    patience.reset()
    patience.sleep(3)
    assert clock.waits[-1] == SHORTEST


def test_what_is_added_by_looking_too_late_is_a_tenth_of_what_was_waited_for() -> None:
    for answer_at in (0.05, 0.7, 4.0, 20.0):
        clock = Clock()
        patience = Patience(clock.read, clock.sleep)
        while clock.now < answer_at:
            patience.sleep(3)
        assert clock.now - answer_at <= max(SHORTEST, answer_at / 10)


@dataclass
class Worker:
    """A process that reads tasks, in the place of a real one."""

    stdin: StringIO = field(default_factory=StringIO)
    dead: bool = False

    def poll(self) -> int | None:
        return 1 if self.dead else None

    def tokens(self) -> list[str]:
        return [json.loads(line)["token"] for line in self.stdin.getvalue().splitlines()]


def task(token: str, app: str, **changes: Any) -> Any:
    from flwr.supercore.constant import TaskType
    from flwr.supercore.superexec.executor import ExecutionSpec

    plain = {
        "task_type": TaskType.CLIENT_APP,
        "runtime_api_address": "127.0.0.1:1",
        "token": token,
        "insecure": True,
        "root_certificates_path": None,
        "runtime_dependency_install": False,
        "parent_pid": None,
        "suppress_output": False,
        "task_id": 1,
        "fab_hash": app,
    }
    return ExecutionSpec(**plain | changes)  # type: ignore[arg-type]


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> list[Worker]:
    started: list[Worker] = []

    def start(self: executors.WarmExecutor) -> Worker:
        started.append(Worker())
        return started[-1]

    monkeypatch.setattr(executors.WarmExecutor, "_start", start)
    return started


def test_a_process_gets_all_tasks_of_one_app_and_another_app_gets_another_process(workers: list[Worker]) -> None:
    executor = executors.WarmExecutor([], Patience())
    for token, app in (("a", "first"), ("b", "first")):
        executor.launch(task(token, app))
    assert [worker.tokens() for worker in workers] == [["a", "b"]]
    executor.launch(task("c", "second"))
    assert len(workers) == 2 and workers[0].stdin.closed and workers[1].tokens() == ["c"]


def test_a_process_that_has_died_is_replaced(workers: list[Worker]) -> None:
    executor = executors.WarmExecutor([], Patience())
    executor.launch(task("a", "first"))
    workers[0].dead = True
    assert executor.launch(task("b", "first")).status == "accepted"
    assert workers[1].tokens() == ["b"]


def test_an_app_whose_packages_flower_installs_is_left_to_flower(
    workers: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str] = []
    monkeypatch.setattr(executors.SubprocessExecutor, "launch", lambda self, spec: given.append(spec.token))
    executor = executors.WarmExecutor([], Patience())
    executor.launch(task("a", "first", runtime_dependency_install=True))
    assert given == ["a"] and workers[0].tokens() == []


def test_a_message_that_never_becomes_whole_does_not_keep_the_next_one_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A SuperNode goes on without an answer where the run ended while it pulled the message; the task is there all the same."""
    told: dict[str, tuple[str, str]] = {}
    ended = Event()
    whole = ("message", "context", "run", "app")

    def client_of(server_address: str, **_: Any) -> Any:
        return SimpleNamespace(of=server_address, close=ended.set)

    def pull(client: Any) -> Any:
        return whole if client.of == "second" else ended.wait(60)

    def note(client: Any, *, context: Any, sub_status: str, details: str) -> None:
        told[client.of] = (sub_status, details)

    monkeypatch.setattr(worker.RuntimeHttpClient, "from_server_address", client_of)
    monkeypatch.setattr(worker, "make_task_heartbeat_fn_http", lambda client: lambda: True)
    monkeypatch.setattr(worker, "pull_task_input", pull)
    monkeypatch.setattr(worker, "_reply", lambda message, *_: (message, ""))
    monkeypatch.setattr(worker, "push_message", lambda *_: None)
    monkeypatch.setattr(worker, "push_task_output", note)
    lines = [json.dumps({"address": at, "token": at, "insecure": True, "certificates": None}) for at in ("first", "second")]
    monkeypatch.setattr(worker.sys, "argv", [])
    monkeypatch.setattr(worker.sys, "stdin", StringIO("\n".join(lines)))
    worker.main()
    assert told["first"] == ("failed", "the run ended before the whole message was there")
    assert told["second"][0] == "completed"


def test_flowers_own_command_runs_with_short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    from flwr.supercore.inflatable.inflatable_utils import pull_objects
    from flwr.supernode import cli
    from flwr.supernode import start_client_internal as loop

    seen: list[Any] = []
    monkeypatch.setattr(cli, "flower_supernode", lambda: seen.append((node.sys.argv[1:], loop.time)))
    monkeypatch.setattr(loop, "time", loop.time)  # put back after the test
    monkeypatch.setattr(loop, "subprocess", loop.subprocess)
    monkeypatch.setattr(node.sys, "argv", [])
    monkeypatch.setitem(pull_objects.__kwdefaults__, "initial_backoff", 1)
    node.run_supernode(["--insecure"])
    ((arguments, time),) = seen
    assert arguments == ["--insecure"] and isinstance(time, SimpleNamespace)
    assert pull_objects.__kwdefaults__["initial_backoff"] == FIRST_BACKOFF


def test_a_release_of_flower_that_is_built_otherwise_runs_as_it_is_and_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from flwr.supernode import cli
    from flwr.supernode import start_client_internal as loop

    ran: list[bool] = []
    monkeypatch.setattr(cli, "flower_supernode", lambda: ran.append(True))
    monkeypatch.delattr(loop, "subprocess")
    monkeypatch.setattr(node.sys, "argv", [])
    with pytest.warns(Notice, match="its SuperNode runs as it is"):
        node.run_supernode([])
    assert ran == [True]
