"""Codecs on both links of a run: what travels shrinks, and what is late, lost or forgotten breaks no chain."""

from __future__ import annotations

from typing import Any

import pytest
from contract import Counting, LeaveOneOut
from grids.forgetful import ForgetfulGrid

from fedkd import Experiment, InputError, simulate
from fedkd.grids import InProcessGrid
from fedkd.results.history import TIMES

DELTA = ("delta", "deflate")


def experiment(strategy: Any = "fedavg", **changes: Any) -> Experiment:
    data = {"clients": 4, "partition": "iid", "train_limit": 120, "public": 40}
    nets = {"nets": "mlp", "net_options": {"mlp": {"hidden": [8]}}}
    return Experiment(strategy=strategy, **{"rounds": 4, "data": data, **nets, **changes})


def comparable(rows: list[dict[str, Any]], *, but: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in (*TIMES, *but) and "bytes" not in k} for row in rows]


@pytest.mark.slow
def test_codecs_that_lose_nothing_change_nothing_but_the_bytes() -> None:
    plain, coded = simulate(experiment()), simulate(experiment(uplink=DELTA, downlink=DELTA))
    assert comparable(plain.metrics) == comparable(coded.metrics)
    assert coded.metrics[1]["bytes_down"] == plain.metrics[1]["bytes_down"]
    for direction in ("up", "down"):
        assert coded.metrics[4][f"coded_bytes_{direction}"] < plain.metrics[4][f"coded_bytes_{direction}"]


@pytest.mark.slow
def test_float16_halves_both_directions() -> None:
    row = simulate(experiment(uplink=("float16",), downlink=("float16",))).metrics[1]
    assert 2 * row["coded_bytes_up"] == row["bytes_up"]
    assert 2 * row["coded_bytes_down"] == row["bytes_down"]


@pytest.mark.slow
@pytest.mark.parametrize("faults", [{"crash": 0.4}, {"dropout": 0.4}, {"straggle": 0.4}, {"nan": 0.4}])
def test_no_fault_breaks_a_chain(faults: dict[str, float]) -> None:
    """The clients that a fault spares send and hear the same as without codecs."""
    plain, coded = (simulate(experiment(faults=faults, **links)) for links in ({}, {"uplink": DELTA, "downlink": DELTA}))
    assert comparable(plain.metrics) == comparable(coded.metrics)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["cfd", LeaveOneOut(), Counting()])
def test_a_grid_that_forgets_all_but_memory_hears_the_same(strategy: Any) -> None:
    settings = experiment(strategy, participation=0.5, uplink=DELTA, downlink=DELTA)
    histories = [simulate(settings, grid) for grid in (InProcessGrid(), ForgetfulGrid())]
    assert comparable(histories[0].metrics) == comparable(histories[1].metrics)
    assert not any(row["clients_failed"] for row in histories[0].metrics)


@pytest.mark.slow
def test_a_client_that_lost_its_memory_costs_a_round_and_is_then_sent_everything() -> None:
    class Amnesia(InProcessGrid):
        def send_and_receive(self, messages, *, timeout=None):  # type: ignore[no-untyped-def]
            messages = list(messages)
            if messages and messages[0].metadata.message_type == "train" and messages[0].metadata.group_id == "2":
                self.restore({})
            return super().send_and_receive(messages, timeout=timeout)

    rows = simulate(experiment(downlink=DELTA), Amnesia()).metrics
    assert [row["clients_failed"] for row in rows[1:]] == [0, 4, 0, 0]
    assert "coded against that of 1.0, which this client does not remember" in rows[2]["failures"]["0"]


def test_a_codec_may_stand_alone() -> None:
    assert experiment(uplink="float16").uplink == ("float16",)


def test_an_unknown_codec_is_named_with_its_key() -> None:
    with pytest.raises(InputError, match="downlink: unknown codec 'defalte'"):
        experiment(downlink=("defalte",))
