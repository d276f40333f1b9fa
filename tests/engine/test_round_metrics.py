"""The metrics of a round: bytes by client and direction, and what a client's line says of several exchanges."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from contract import Counting, LeaveOneOut
from flwr.app import Message

from fedkd import Experiment, Knowledge, simulate
from fedkd.engine.instruction import TRAIN
from fedkd.engine.received import Received
from fedkd.engine.round_metrics import DOWN, UP, RoundMetrics
from fedkd.grids import InProcessGrid
from fedkd.knowledge.records import wire_bytes


class Scales(InProcessGrid):
    """Weighs every message to a client and every reply to one that asks for training, by round and client."""

    def __init__(self) -> None:
        super().__init__()
        self.down: dict[tuple[int, int], int] = {}
        self.up: dict[tuple[int, int], int] = {}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        messages = list(messages)
        replies = list(super().send_and_receive(messages, timeout=timeout))
        if messages and messages[0].metadata.message_type == TRAIN:
            round = int(messages[0].metadata.group_id)
            for message in messages:
                key = (round, message.metadata.dst_node_id)
                self.down[key] = self.down.get(key, 0) + wire_bytes(message.content)
            for reply in (reply for reply in replies if reply.has_content()):
                key = (round, reply.metadata.src_node_id)
                self.up[key] = self.up.get(key, 0) + wire_bytes(reply.content)
        return replies


@pytest.mark.parametrize(
    ("strategy", "changes"),
    [
        ("fedavg", {"uplink": ("float16",), "downlink": ("float16",)}),
        ("fedmd", {"participation": 0.5}),
        (LeaveOneOut(), {"faults": {"crash": 0.2, "dropout": 0.3, "nan": 0.2}}),
        (Counting(), {}),
    ],
)
def test_every_byte_is_booked_to_its_client_and_the_row_is_their_sum(strategy: Any, changes: dict[str, Any]) -> None:
    data = {"clients": 4, "partition": "iid", "train_limit": 120, "public": 40}
    nets = {"nets": "mlp", "net_options": {"mlp": {"hidden": [8]}}}
    scales = Scales()
    history = simulate(Experiment(strategy=strategy, rounds=3, data=data, **nets, **changes), scales)
    for row in history.metrics:
        lines = [line for line in history.clients if line["round"] == row["round"]]
        assert {key: sum(line.get(key, 0) for line in lines) for key in UP + DOWN} == {key: row[key] for key in UP + DOWN}
    for direction, weighed in (("down", scales.down), ("up", scales.up)):
        booked = {(line["round"], line["client"]): line.get(f"wire_bytes_{direction}") for line in history.clients}
        assert {key: size for key, size in booked.items() if size is not None} == weighed


@pytest.mark.slow
def test_messages_to_clients_that_fail_are_booked_and_who_drops_out_was_sent_none() -> None:
    data = {"clients": 6, "partition": "iid", "train_limit": 120}
    experiment = Experiment(strategy="fedavg", nets="mlp", rounds=3, data=data, faults={"crash": 0.4, "dropout": 0.3})
    lines = [line for line in simulate(experiment).clients if line["round"]]
    crashed = [line for line in lines if "crashed" in line.get("reason", "")]
    dropped = [line for line in lines if "dropped" in line.get("reason", "")]
    sound = [line for line in lines if line["status"] == "ok"]
    assert crashed and dropped and sound
    assert {line["bytes_down"] for line in crashed} == {line["bytes_down"] for line in sound}
    assert not any("bytes_up" in line for line in crashed)
    assert not any(key in line for line in dropped for key in UP + DOWN)


def test_seconds_of_all_exchanges_add_up_and_other_metrics_are_the_last() -> None:
    metrics = RoundMetrics(1, timeout=1.0)
    metrics.enlist([0, 1])
    for seconds, loss in ((2.0, 5.0), (0.5, 4.0)):
        upload = Knowledge(weight=7, metrics={"loss": loss, "seconds": seconds})
        metrics.enter(Received(uploads={0: upload} if seconds == 0.5 else {0: upload, 1: upload}))
    row, clients = metrics.close()
    assert [(line["seconds"], line["loss"]) for line in clients] == [(2.5, 4.0), (2.0, 5.0)]
    assert row["loss"] == 4.0
