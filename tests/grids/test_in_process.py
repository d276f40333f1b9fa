import threading

import pytest
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.task_identity import TaskIdentity
from grids.apps import answer, answers, ask, probe_client, with_grid

from fedkd.base.errors import InputError
from fedkd.grids import InProcessGrid, JobGrid, run_app


def test_fifty_runs_leave_flowers_identity_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TaskIdentity, "_run_id", 77)
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        (reply,) = grid.send_and_receive([Message(RecordDict(), 0, "query.count")])
        context.state["calls"] = reply.content["answer"]
        if context.run_config["fail"]:
            raise ValueError("the server fails")

    for i in range(50):
        if i % 2:
            with pytest.raises(ValueError, match="the server fails"):
                run_app(server, probe_client(), 2, {"fail": True})
        else:
            assert run_app(server, probe_client(), 2, {"fail": False}).state["calls"]["calls"] == 1
        assert (TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id) == (None, 77, None)


def test_a_client_is_given_the_same_context_and_the_same_bytes() -> None:
    def body(grid: JobGrid) -> None:
        content = RecordDict({"arrays": ArrayRecord({"0": array})})
        first, second = (ask(grid, "where", [0, 1], content, group) for group in ("1", "2"))
        assert answers(first, "context") == answers(second, "context")
        assert len(set(answers(first, "context"))) == 2
        assert set(answers(first + second, "array")) == {id(array.data)}  # shared, not copied

    import numpy as np
    from flwr.app import Array

    array = Array(np.arange(10.0))
    assert InProcessGrid.keeps_contexts
    with_grid(InProcessGrid(), 2, body)


def test_clients_cost_nothing_before_they_are_asked() -> None:
    def body(grid: JobGrid) -> None:
        ask(grid, "count", [5, 9_999_999])
        assert sorted(grid.states()) == sorted(grid._contexts) == [5, 9_999_999]

    with_grid(InProcessGrid(), 10_000_000, body)


def test_keyboard_interrupt_in_a_client_passes_through() -> None:
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        raise KeyboardInterrupt

    with InProcessGrid().open(app, 1) as grid:
        message = grid.create_message(RecordDict(), "query", 0, "")
        with pytest.raises(KeyboardInterrupt):
            grid.send_and_receive([message])


def test_threads_that_push_and_pull_each_get_their_reply() -> None:
    """As Flower's compatibility mode does."""
    with InProcessGrid().open(probe_client(), 8) as grid:
        got = {}

        def one_client(node: int) -> None:
            ids = grid.push_messages([grid.create_message(RecordDict(), "query.count", node, "")])
            got[node] = answers(list(grid.pull_messages(ids)), "node")

        threads = [threading.Thread(target=one_client, args=(node,)) for node in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert got == {node: [node] for node in range(8)}


def test_a_reply_to_another_message_is_an_error() -> None:
    app, seen = ClientApp(), []

    @app.query()
    def query(message: Message, context: Context) -> Message:
        seen.append(message)
        return answer(seen[0])

    with InProcessGrid().open(app, 1) as grid:
        good, bad = grid.send_and_receive([grid.create_message(RecordDict(), "query", 0, "") for _ in range(2)])
    assert good.has_content() and "does not answer" in bad.error.reason


@pytest.mark.parametrize(
    ("grid", "nodes", "line"),
    [
        ("rey", 2, "unknown engine 'rey': did you mean \"ray\"?"),
        ("in_process", 2, 'did you mean "in-process"?'),
        ("spark", 2, "use in-process, together, ray, or give a grid"),
        ("in-process", 0, "num_supernodes is 0"),
    ],
)
def test_bad_input(grid: str, nodes: int, line: str) -> None:
    with pytest.raises(InputError, match=line.replace("?", r"\?")):
        run_app(ServerApp(), probe_client(), nodes, grid=grid)


def test_a_grid_runs_one_app_at_a_time() -> None:
    with InProcessGrid().open(probe_client(), 1) as grid:
        with pytest.raises(InputError, match="runs another app already"):
            grid.open(probe_client(), 1)
    with pytest.raises(RuntimeError, match="is closed"):
        _ = grid.client_app
