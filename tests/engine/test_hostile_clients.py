"""A bad reply loses that client for that round, never the round: what clients answer, changed in every place."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from hostile import Change, HostileGrid, Where, mutated_answers, mutated_uploads

from fedkd import Experiment, History, simulate
from fedkd.results.files import plain

#: Strategy -> what it needs beside the settings below, and the exchanges of a round whose replies are changed.
SHOWN: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "fedavg": ({"uplink": ("delta", "deflate")}, (0,)),
    "fd": ({}, (0,)),
    "fedproto": ({}, (0,)),
    "fedmd": ({"public": 20}, (0, 1)),
    "dml": ({"partition": "shared", "train_limit": 40}, (0, 2)),
}
HONEST = 3


def experiment(name: str, clients: int) -> Experiment:
    extra = dict(SHOWN[name][0])
    uplink = extra.pop("uplink", ())
    samples = {"partition": "iid", "train_limit": 12 * clients + extra.get("public", 0), "test_limit": 30}
    nets = {"nets": "mlp", "net_options": {"mlp": {"hidden": [4]}}, "uplink": uplink}
    return Experiment(
        strategy=name,
        rounds=2,
        evaluate_clients=1000,
        data={"clients": clients, **samples, **extra},
        train={"batch_size": 16},
        **nets,
    )


def run(name: str, where: Where, changes: dict[int, Change], clients: int) -> tuple[History, HostileGrid]:
    grid = HostileGrid(where, changes)
    return simulate(experiment(name, clients), grid), grid


def places() -> Iterator[tuple[str, Where]]:
    for name, (_, exchanges) in SHOWN.items():
        yield from ((name, ("train", 1, exchange)) for exchange in exchanges)
        yield name, ("evaluate", 1, 0)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "where"), list(places()), ids=str)
def test_every_change_of_a_reply_is_that_clients_error_and_nobody_elses(name: str, where: Where) -> None:
    _, honest = run(name, where, {}, HONEST)
    legal = honest.legal
    every = mutated_uploads(legal) if where[0] == "train" else mutated_answers(legal)
    names = dict(enumerate(every, start=HONEST))
    history, _ = run(name, where, {client: every[why] for client, why in names.items()}, HONEST + len(every))
    assert len(history.metrics) == 3
    for row in (*history.metrics, *history.clients):
        json.dumps(row, allow_nan=False)
        assert all(0 <= value <= 1 for key, value in numbers(row) if "accuracy" in key)
    row = history.metrics[1]
    failures = row["failures" if where[0] == "train" else "evaluation_failures"]
    assert {why for client, why in names.items() if str(client) not in failures} == set()
    assert not {str(client) for client in range(HONEST)} & failures.keys()
    assert all(reason.isprintable() and 10 < len(reason) < 600 for reason in failures.values())
    assert [row["clients_ok"] for row in history.metrics[1:]] == [HONEST, HONEST]


def numbers(row: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in plain(row).items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, int | float):
                assert math.isfinite(each), key
                yield key, each
