import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid, ServerApp
from grids.apps import answer, answers, ask, probe_client, with_grid

from fedkd.base.errors import InputError
from fedkd.grids import JobGrid, RayGrid, run_app, seat, worker

pytestmark = pytest.mark.usefixtures("ray_session")


def test_clients_stay_at_their_actor_and_find_their_context_there() -> None:
    def body(grid: JobGrid) -> None:
        content = RecordDict({"arrays": ArrayRecord([np.zeros(5000)])})
        first, second = (ask(grid, "where", [0, 1, 2, 3], content, group="1") for _ in range(2))
        assert answers(first, "process") == answers(second, "process")
        assert answers(first, "context") == answers(second, "context")
        assert answers(second, "visits") == [2, 2, 2, 2]
        assert len(set(answers(first, "process"))) == 2 and os.getpid() not in answers(first, "process")
        where = set(zip(answers(first, "process"), answers(first, "array"), strict=True))
        assert len(where) == 2  # the broadcast exists once in each actor

    with_grid(RayGrid(actors=2), 4, body)


def test_actors_tell_how_long_their_processors_were_at_work() -> None:
    def body(grid: JobGrid) -> None:
        ask(grid, "count", [0, 1], group="1")
        before = grid.cpu_seconds
        assert before > 0
        ask(grid, "count", [0, 1], group="2")
        assert grid.cpu_seconds > before

    grid = RayGrid(actors=2)
    assert grid.on_this_machine and not RayGrid(address="auto").on_this_machine
    with_grid(grid, 2, body)


def kill_content(folder: Path, times: int) -> RecordDict:
    return RecordDict({"config": ConfigRecord({"files": str(folder), "times": times})})


def test_the_clients_of_a_killed_actor_are_tried_again(tmp_path: Path) -> None:
    def body(grid: JobGrid) -> None:
        ask(grid, "count", [0, 1, 2, 3], group="1")
        replies = ask(grid, "kill", [0, 1, 2, 3], kill_content(tmp_path, times=1), group="2")
        assert answers(replies, "calls") == [2, 2, 2, 2]  # from the last state that came back
        assert answers(ask(grid, "count", [0, 1, 2, 3], group="3"), "calls") == [3, 3, 3, 3]

    with_grid(RayGrid(actors=1), 4, body)


def test_a_client_that_kills_its_actor_twice_is_an_error_and_the_others_are_not(tmp_path: Path) -> None:
    def body(grid: JobGrid) -> None:
        zero, one, two, three = ask(grid, "kill", [0, 1, 2, 3], kill_content(tmp_path, times=2), group="1")
        assert answers([zero, two, three], "calls") == [1, 1, 1]
        assert one.error.code == ErrorCode.CLIENT_APP_CRASHED
        assert one.error.reason.startswith("WorkerDied: the worker died while it ran client 1, twice (exit: Worker ")
        assert len(one.error.reason.splitlines()) == 1
        assert answers(ask(grid, "count", [1], group="2"), "calls") == [1]

    with_grid(RayGrid(actors=2), 4, body)


@pytest.mark.parametrize(("timeout", "loaded"), [(None, False), (30.0, True)])
def test_torchs_compiler_is_loaded_only_before_clients_that_have_little_time(
    timeout: float | None, loaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes seconds, by which an honest client that needs it would be late."""
    pytest.importorskip("torch")
    monkeypatch.setattr("fedkd.grids.ray.RECORDS_NEED", worker.RECORDS_NEED)
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        import torch

        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        optimizer.zero_grad()
        return answer(message, loaded="torch._dynamo" in sys.modules)

    with RayGrid(actors=1).open(app, 1) as grid:
        question = grid.create_message(RecordDict(), "query", 0, "")
        assert answers(list(grid.send_and_receive([question], timeout=timeout)), "loaded") == [loaded]


@pytest.mark.parametrize("actors", [1, 2])
def test_a_client_that_hangs_costs_its_timeout_once_and_the_others_nothing(
    actors: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seat, "GRACE_SECONDS", 0.0)

    def body(grid: JobGrid) -> None:
        ask(grid, "count", [0, 1, 2, 3], group="1")
        hanging = RecordDict({"config": ConfigRecord({"file": str(tmp_path / "never")})})
        assert answers(ask(grid, "wait", [0, 1, 2, 3], hanging, group="2", timeout=4.0), "node") == [0, 2, 3]
        assert answers(ask(grid, "count", [0, 1, 2, 3], group="3"), "calls") == [3, 2, 3, 3]  # without a timeout

    with_grid(RayGrid(actors=actors), 4, body)


def test_in_a_call_of_many_clients_the_one_that_hangs_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seat, "GRACE_SECONDS", 0.0)
    monkeypatch.setattr("fedkd.grids.ray.ALONE_SECONDS", 0.0)

    def body(grid: JobGrid) -> None:
        everyone = list(range(60))
        hanging = RecordDict({"config": ConfigRecord({"file": str(tmp_path / "never")})})
        replies = ask(grid, "wait", everyone, hanging, timeout=4.0)
        assert answers(replies, "node") == [node for node in everyone if node != 1]
        assert set(answers(replies, "calls")) == {1}  # who shared its call went on from its last state

    with_grid(RayGrid(actors=1), 60, body)


def test_two_actors_share_a_gpu() -> None:
    def body(grid: JobGrid) -> None:
        replies = ask(grid, "where", [0, 1])
        assert len(set(answers(replies, "process"))) == 2
        assert answers(replies, "gpu") == ["0", "0"]

    with_grid(RayGrid(actors=2, num_gpus=0.5), 2, body)


@pytest.mark.gpu
def test_two_actors_compute_on_one_gpu() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        total = torch.full((10,), context.node_id, device="cuda").sum().item()
        return answer(message, process=os.getpid(), total=total, devices=torch.cuda.device_count())

    with RayGrid(actors=2, num_gpus=0.5).open(app, 2) as grid:
        replies = list(grid.send_and_receive([grid.create_message(RecordDict(), "query", i, "") for i in range(2)]))
    assert len(set(answers(replies, "process"))) == 2
    assert (answers(replies, "total"), answers(replies, "devices")) == ([0, 10], [1, 1])


@pytest.mark.parametrize(
    ("grid", "line"),
    [
        (lambda: RayGrid(num_gpus=1), "2 actors with num_gpus = 1 do not fit: the Ray cluster has 1 GPUs"),
        (lambda: RayGrid(num_gpus=0.6), "2 actors with num_gpus = 0.6 do not fit"),
        (lambda: RayGrid(actors=5), "5 actors with num_cpus = 1 do not fit: the Ray cluster has 4 CPUs"),
        (lambda: RayGrid(actors=0), "actors must be at least 1"),
    ],
)
def test_resources_that_do_not_exist(grid: Callable[[], RayGrid], line: str) -> None:
    with pytest.raises(InputError, match=line):
        run_app(ServerApp(), probe_client(), 2, grid=grid())


def test_an_app_that_cannot_travel() -> None:
    app, lock = ClientApp(), threading.Lock()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        with lock:
            return Message(RecordDict(), reply_to=message)

    with pytest.raises(InputError, match=r"cannot travel to Ray .*lock"):
        run_app(ServerApp(), app, 2, grid=RayGrid())


class NeedsThisProcess(ClientApp):
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return __import__, ("a_module_that_workers_do_not_have",)


def test_an_app_that_workers_cannot_load_ends_the_run() -> None:
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        ask(grid, "count", [0])

    with pytest.raises(RuntimeError, match=r"could not start: ModuleNotFoundError: .*a_module_that_workers"):
        run_app(server, NeedsThisProcess(), 2, grid=RayGrid())


OWN_RAY = """
import os, signal, sys
from flwr.app import Context
from flwr.serverapp import ServerApp
from fedkd.grids import RayGrid
from grids.apps import answer, answers, ask, probe_client, with_grid

before = dict(os.environ), signal.getsignal(signal.SIGTERM)

def body(grid):
    assert answers(ask(grid, "count", [0, 1, 2]), "calls") == [1, 1, 1]
    raise KeyboardInterrupt

try:
    with_grid(RayGrid(actors=3), 3, body)
except KeyboardInterrupt:
    import ray
    assert not ray.is_initialized()
    changed = {key for key in {*before[0], *os.environ} if before[0].get(key) != os.environ.get(key)}
    assert changed <= {"RAY_AUTH_TOKEN", "PYTHONBREAKPOINT"}, changed  # clusters share the one, Ray's own start sets the other
    assert signal.getsignal(signal.SIGTERM) == before[1]
    print("interrupted")
"""


RAY_DIES = """
import os, signal, sys
from pathlib import Path
from fedkd.base.errors import RunFailed
from fedkd.grids import RayGrid
from grids.apps import answers, ask, with_grid
from programs import descendants

def body(grid):
    assert answers(ask(grid, "count", [0, 1]), "calls") == [1, 1]
    (victim,) = (p.id for p in descendants(os.getpid()) if Path(f"/proc/{p.id}/comm").read_text().strip() == sys.argv[1])
    os.kill(victim, signal.SIGKILL)
    while True:  # its doors close a moment later; until then the actors answer as ever
        ask(grid, "count", [0, 1])

try:
    with_grid(RayGrid(actors=2), 2, body)
except RunFailed as failure:
    print(failure)
"""


@pytest.mark.slow
@pytest.mark.parametrize("process", ["raylet", "gcs_server"])
def test_a_ray_that_dies_is_an_error_and_not_the_end_of_the_process(process: str) -> None:
    done = subprocess.run([sys.executable, "-c", RAY_DIES, process], capture_output=True, text=True, timeout=240)
    assert f"Ray's {'GCS' if process == 'gcs_server' else process} at " in done.stdout and "has died" in done.stdout
    assert done.returncode == 0


@pytest.mark.slow
def test_a_ray_of_our_own_is_quiet_and_is_stopped() -> None:
    done = subprocess.run([sys.executable, "-c", OWN_RAY], capture_output=True, text=True, timeout=240)
    assert (done.stdout, done.stderr, done.returncode) == ("interrupted\n", "", 0)
