"""What holds for every grid."""

import random
from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAdam, FedAvg, Krum, Result, Strategy
from grids.apps import answers, ask, linear_client, probe_client, strategy_server, with_grid

from fedkd.grids import InProcessGrid, JobGrid, client_call, run_app

MakeGrid = Callable[[], JobGrid]


def fit_line(grid: JobGrid, make: Callable[[], Strategy]) -> Result:
    results: list[Result] = []
    random.seed(0)  # Flower shuffles the nodes
    run_app(strategy_server(make, results), linear_client(), 4, {"lr": 0.5}, grid)
    return results[0]


@pytest.mark.parametrize(
    "make", [FedAvg, lambda: FedAdam(eta=0.3), lambda: Krum(num_malicious_nodes=1)], ids=["FedAvg", "FedAdam", "Krum"]
)
def test_flowers_own_strategies_give_equal_results(make_grid: MakeGrid, make: Callable[[], Strategy]) -> None:
    expected, result = fit_line(InProcessGrid(), make), fit_line(make_grid(), make)
    np.testing.assert_array_equal(result.arrays.to_numpy_ndarrays()[0], expected.arrays.to_numpy_ndarrays()[0])
    assert result.train_metrics_clientapp == expected.train_metrics_clientapp
    assert result.evaluate_metrics_clientapp == expected.evaluate_metrics_clientapp
    assert result.train_metrics_clientapp[3]["loss"] < result.train_metrics_clientapp[1]["loss"]


def test_run_app_returns_the_servers_context(make_grid: MakeGrid) -> None:
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        context.state["found"] = ConfigRecord({"rounds": context.run_config["rounds"], "nodes": list(grid.get_node_ids())})

    context = run_app(server, probe_client(), 3, {"rounds": 5}, make_grid())
    assert context.state["found"] == {"rounds": 5, "nodes": [0, 1, 2]}


def test_messages_and_replies_are_copies(make_grid: MakeGrid) -> None:
    def body(grid: JobGrid) -> None:
        arrays = ArrayRecord([np.arange(3.0)])
        content = RecordDict({"config": ConfigRecord({"list": [1, 2], "number": 7}), "arrays": arrays})
        for reply in ask(grid, "vandal", [0, 1, 0], content):
            assert reply.content["config"] == {"list": [1, 2], "number": 7}
            assert reply.content["arrays"] == ArrayRecord([np.arange(3.0)])
        assert content["config"] == {"list": [1, 2], "number": 7}
        assert content["arrays"] == ArrayRecord([np.arange(3.0)])
        for _ in range(2):  # what the server does to a reply does not reach the client's state
            (reply,) = ask(grid, "hoard", [0])
            assert reply.content["kept"]["list"] == [1, 2]
            reply.content["kept"]["list"].append(3)

    with_grid(make_grid(), 2, body)


def test_an_exception_is_that_clients_error_reply(make_grid: MakeGrid) -> None:
    def body(grid: JobGrid) -> None:
        good, bad, also_good = ask(grid, "fail", [0, 1, 2])
        assert answers([good, also_good], "node") == [0, 2]
        assert bad.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
        lines = bad.error.reason.splitlines()
        assert lines[0] == "ZeroDivisionError: one is a bad number"
        assert lines[1].startswith("Traceback") and "in fail" in bad.error.reason
        assert ask(grid, "exit", [0])[0].error.reason.startswith("SystemExit: 3")
        assert "returned NoneType" in ask(grid, "nothing", [0])[0].error.reason
        assert "No query function registered" in ask(grid, "unheard_of", [0])[0].error.reason
        assert "nodes are 0 to 2" in ask(grid, "count", [7])[0].error.reason

    with_grid(make_grid(), 3, body)


def test_state_survives_and_can_be_restored(make_grid: MakeGrid) -> None:
    def body(grid: JobGrid) -> None:
        ask(grid, "count", [0, 1], group="1")
        states = grid.states()
        assert {node: state["counter"]["calls"] for node, state in states.items()} == {0: 1, 1: 1}  # 2 has none
        assert answers(ask(grid, "count", [0, 1, 1, 2], group="2"), "calls") == [2, 2, 3, 1]
        grid.restore(states)
        assert answers(ask(grid, "count", [0, 1, 2], group="2"), "calls") == [2, 2, 1]
        assert states[0]["counter"]["calls"] == 1  # what was restored is a copy

    with_grid(make_grid(), 3, body)


def test_late_is_who_alone_took_longer_than_the_timeout(make_grid: MakeGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_call, "clock", client_call.clock)  # put back after the test

    def body(grid: JobGrid) -> None:
        def nodes_that_take(*seconds: float) -> list[int | float | str]:
            content = RecordDict({"config": ConfigRecord({"seconds": list(seconds)})})
            return answers(ask(grid, "take", [0, 1, 2, 3], content, timeout=1000.0), "node")

        assert nodes_that_take(900.0, 900.0, 900.0, 900.0) == [0, 1, 2, 3]  # 3600 s one after the other
        assert nodes_that_take(1.0, 2000.0, 999.0, 1001.0) == [0, 2]
        assert answers(ask(grid, "count", [0, 1]), "calls") == [3, 3]  # it was late, but it was done
        assert ask(grid, "count", [0, 1], timeout=0.0) == []

    with_grid(make_grid(), 4, body)


def test_push_and_pull(make_grid: MakeGrid) -> None:
    def body(grid: JobGrid) -> None:
        messages = [grid.create_message(RecordDict(), "query.count", node, "1") for node in (1, 0)]
        first, second = grid.push_messages(messages)
        (reply,) = grid.pull_messages([second])
        assert reply.metadata.reply_to_message_id == second and reply.metadata.src_node_id == 0
        assert [r.metadata.src_node_id for r in grid.pull_messages([second, first, "unknown"])] == [1]  # each once
        assert list(grid.pull_messages([first])) == []
        _, fourth = grid.push_messages(messages)
        assert [r.metadata.src_node_id for r in grid.pull_messages(message_ids=[fourth])] == [0]  # Flower 1.41's name for them
        assert [r.metadata.src_node_id for r in grid.pull_messages()] == [1]  # all that is left, as from 1.43 on

    with_grid(make_grid(), 2, body)


def test_a_grid_can_be_used_again_after_an_error_in_the_server(make_grid: MakeGrid) -> None:
    grid = make_grid()

    def body(grid: JobGrid) -> None:
        assert answers(ask(grid, "count", [0]), "calls") == [1]
        raise KeyboardInterrupt

    for _ in range(2):  # the second run knows nothing of the first
        with pytest.raises(KeyboardInterrupt):
            with_grid(grid, 1, body)
