"""Small apps as a third party would write them: Flower and numpy, and nothing of fedkd."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Result, Strategy

from fedkd.grids import JobGrid, client_call, run_app


def linear_client() -> ClientApp:
    """Linear regression by gradient steps; each client draws its own 32 points of y = 2 x0 - x1."""
    app = ClientApp()

    def points(context: Context) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(int(context.node_config["partition-id"]))
        x = rng.normal(size=(32, 2))
        return x, x @ np.array([2.0, -1.0]) + 0.1 * rng.normal(size=32)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        x, y = points(context)
        (w,) = message.content["arrays"].to_numpy_ndarrays()
        lr = float(context.run_config["lr"])
        for _ in range(int(message.content["config"]["steps"])):
            w = w - lr * x.T @ (x @ w - y) / len(y)
        metrics = MetricRecord({"num-examples": len(y), "loss": float(np.mean((x @ w - y) ** 2))})
        return Message(RecordDict({"arrays": ArrayRecord([w]), "metrics": metrics}), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        x, y = points(context)
        (w,) = message.content["arrays"].to_numpy_ndarrays()
        metrics = MetricRecord({"num-examples": len(y), "loss": float(np.mean((x @ w - y) ** 2))})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


def strategy_server(make: Callable[[], Strategy], results: list[Result]) -> ServerApp:
    """Three rounds of a strategy from w = 0; the Result is appended to ``results``."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        start = ArrayRecord([np.zeros(2)])
        results.append(make().start(grid, start, num_rounds=3, train_config=ConfigRecord({"steps": 2})))

    return app


def probe_client() -> ClientApp:
    """One action per thing that a test wants to see."""
    app = ClientApp()

    @app.query("count")
    def count(message: Message, context: Context) -> Message:
        """How often this client was asked, counted in its state."""
        if "counter" not in context.state:
            context.state["counter"] = ConfigRecord({"calls": 0})
        context.state["counter"]["calls"] += 1
        return answer(message, calls=context.state["counter"]["calls"], node=context.node_id)

    @app.query("vandal")
    def vandal(message: Message, context: Context) -> Message:
        """Replies with what it was given, then destroys it."""
        config, arrays = message.content["config"], message.content["arrays"]
        seen = RecordDict({"config": ConfigRecord(dict(config)), "arrays": ArrayRecord(dict(arrays))})
        seen["config"]["list"] = list(config["list"])
        config["list"].append(99)
        config["number"] = -1
        arrays["0"].data = b""
        arrays["0"].shape = (0,)
        del message.content["arrays"]
        return Message(seen, reply_to=message)

    @app.query("hoard")
    def hoard(message: Message, context: Context) -> Message:
        """Replies with a record that stays in its state."""
        context.state.setdefault("kept", ConfigRecord({"list": [1, 2]}))
        return Message(RecordDict({"kept": context.state["kept"]}), reply_to=message)

    @app.query("fail")
    def fail(message: Message, context: Context) -> Message:
        if context.node_id == 1:
            raise ZeroDivisionError("one is a bad number")
        return answer(message, node=context.node_id)

    @app.query("exit")
    def leave(message: Message, context: Context) -> Message:
        sys.exit(3)

    @app.query("nothing")
    def nothing(message: Message, context: Context) -> Message:
        return None  # type: ignore[return-value]

    @app.query("take")
    def take(message: Message, context: Context) -> Message:
        """Takes so many seconds, by a grid's clock, as the message says for this client."""
        jump(float(message.content["config"]["seconds"][context.node_id]))
        return count(message, context)

    @app.query("wait")
    def wait(message: Message, context: Context) -> Message:
        """Client 1 answers once a file exists, the others at once."""
        while context.node_id == 1 and not Path(str(message.content["config"]["file"])).exists():
            time.sleep(0.01)
        return count(message, context)

    @app.query("where")
    def where(message: Message, context: Context) -> Message:
        first = message.content["arrays"]["0"].data if "arrays" in message.content else b""
        context.__dict__.setdefault("visits", []).append(message.metadata.group_id)
        gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        return answer(message, process=os.getpid(), array=id(first), context=id(context), visits=len(context.visits), gpu=gpu)

    @app.query("kill")
    def kill(message: Message, context: Context) -> Message:
        """Client 1 kills its process, the first ``times`` times; ``files`` remember how often."""
        config = message.content["config"]
        here = Path(str(config["files"]))
        if context.node_id == 1 and (done := len(list(here.iterdir()))) < int(config["times"]):
            (here / str(done)).touch()
            os.kill(os.getpid(), 9)
        return count(message, context)

    return app


def jump(seconds: float) -> None:
    """The clock by which grids measure clients, in this process, goes forward."""
    before = client_call.clock
    client_call.clock = lambda: before() + seconds


def answer(message: Message, **values: int | float | str) -> Message:
    return Message(RecordDict({"answer": ConfigRecord(values)}), reply_to=message)


def ask(
    grid: Grid, action: str, nodes: list[int], content: RecordDict | None = None, group: str = "", **timeout: float
) -> list[Message]:
    """Send one content to all nodes, as Flower's strategies do."""
    shared = RecordDict() if content is None else content
    messages = [grid.create_message(shared, f"query.{action}", node, group) for node in nodes]
    return list(grid.send_and_receive(messages, **timeout))


def answers(replies: list[Message], key: str) -> list[int | float | str]:
    return [reply.content["answer"][key] for reply in replies]


def with_grid(grid: JobGrid, nodes: int, body: Callable[[JobGrid], None]) -> None:
    """Run ``body`` as the main of a ServerApp over `probe_client`."""
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        body(grid)

    run_app(server, probe_client(), nodes, grid=grid)
