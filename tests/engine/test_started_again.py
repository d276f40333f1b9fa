"""A node that is started again in mid-run takes part again, with what it kept if its config names a place for that."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Strategy as FlowerStrategy
from grids.renumbered import RenumberedGrid

from fedkd import Experiment, History, simulate
from fedkd.app import client_app
from fedkd.base.errors import Notice
from fedkd.engine.newcomers import STARTED_AGAIN
from fedkd.grids import run_app
from fedkd.strategies import FedAvg

pytestmark = pytest.mark.slow  # replies are polled for
EXPERIMENT = Experiment(
    strategy="fedmd",
    nets="mlp",
    net_options={"mlp": {"hidden": (8,)}},
    rounds=5,
    evaluate_every=5,
    uplink=("delta", "deflate"),
    data={"clients": 2, "partition": "iid", "train_limit": 90, "public": 20},
)
RESTARTED = 2  # after this round


class Restarting(RenumberedGrid):
    """After a round node 9, which is client 1, has forgotten all; with ``new`` it has another id, and its config."""

    def restart(self, new: int = 0, **config: Any) -> None:
        place = self._place[9]
        context = self._inner.context(place)
        context.state = RecordDict()
        if new:
            self._place = {node: at for node, at in self._place.items() if node != 9} | {new: place}
            context.node_config = {"partition-id": 1, **config}
            self._node_configs = {**self._node_configs, new: context.node_config}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """To a node that is gone nothing can be sent, which Flower notices after a while."""
        ids = []
        for message in messages:
            if message.metadata.dst_node_id in self._place:
                ids += super().push_messages([message])
            else:
                reply = Message(Error(5, "node unavailable"), reply_to=message)
                reply.metadata.__dict__["_src_node_id"] = message.metadata.dst_node_id
                ids.append(f"gone-{len(self._ready)}-{self._pushes}")
                reply.metadata.__dict__["_reply_to_message_id"] = ids[-1]
                self._ready[ids[-1]] = (0, reply)
        return ids


def run(tmp_path: Path | None, new: int = 0, **config: Any) -> History:
    kept = {node: {"memory-path": str(tmp_path / str(node))} if tmp_path else {} for node in (7, 9)}
    grid = Restarting({7: {"partition-id": 0, **kept[7]}, 9: {"partition-id": 1, **kept[9]}})
    again = kept[9] | config
    return simulate(EXPERIMENT, grid, on_round=lambda row: grid.restart(new, **again) if row["round"] == RESTARTED else None)


def outcomes(history: History) -> list[int]:
    return [int(row["clients_ok"]) for row in history.metrics]


def test_with_its_key_it_is_the_same_node_and_misses_one_round(recwarn: pytest.WarningsRecorder, tmp_path: Path) -> None:
    history = run(tmp_path)
    assert outcomes(history) == [0, 2, 2, 1, 2, 2]
    (failed,) = [row for row in history.metrics if row.get("failures")]
    assert failed["round"] == RESTARTED + 1 and STARTED_AGAIN in failed["failures"]["1"]
    assert not [warning for warning in recwarn if issubclass(warning.category, Notice) and "kept" in str(warning.message)]


def test_without_a_place_for_its_memory_it_goes_on_without_and_that_is_said() -> None:
    with pytest.warns(Notice, match="clients 1 go on without what they kept"):
        history = run(None)
    assert outcomes(history) == [0, 2, 2, 1, 2, 2]


def test_without_a_key_it_is_another_node_and_takes_its_clients_place(tmp_path: Path) -> None:
    history = run(tmp_path, new=11)
    assert outcomes(history) == [0, 2, 2, 1, 2, 2]


def test_another_node_that_holds_other_data_does_not_take_the_place(tmp_path: Path) -> None:
    other = tmp_path / "other"
    for split, labels in (("train", "ab"), ("test", "ab")):
        for label in labels:
            (other / split / label).mkdir(parents=True)
    with pytest.warns(Notice, match="a node that came later is left out: "):
        history = run(tmp_path, new=11, **{"data-path": str(other)})
    assert outcomes(history)[RESTARTED + 1 :] == [1, 1, 1]


def test_flowers_own_loop_takes_it_in_again_too() -> None:
    grid, server, losses = Restarting({7: {"partition-id": 0}, 9: {"partition-id": 1}}), ServerApp(), list[Any]()

    def scored(round: int, arrays: ArrayRecord) -> None:
        if round == RESTARTED:
            grid.restart()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        config = ConfigRecord({**EXPERIMENT.replace(strategy="fedavg", uplink=()).to_flat()})
        result = FlowerStrategy.start(FedAvg(), grid, ArrayRecord(), num_rounds=5, train_config=config, evaluate_fn=scored)
        losses.extend(result.train_metrics_clientapp)

    with pytest.warns(Notice, match="clients 1 go on without what they kept"):
        run_app(server, client_app(), num_supernodes=2, run_config={}, grid=grid)
    assert losses == [1, 2, 3, 4, 5]
