"""The virtual clock: seconds that can be worked out by hand, who is late by them, and the same ones on every engine."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import pytest
import torch
from contract import Counting, Numbers, TwoNets, number
from grids.renumbered import RenumberedGrid

from fedkd import Client, Experiment, History, InputError, Knowledge, Server, simulate
from fedkd.base.errors import Notice
from fedkd.engine.clock.devices import devices_of
from fedkd.experiment.algorithm.clock_section import PROFILES
from fedkd.experiment.algorithm.counted_work import Alike, CountedWork, uncounted
from fedkd.grids import JobGrid
from fedkd.results.history import OF_ENGINE, TIMES

#: A thousand operations a second; a number of 4 bytes takes a second up and two down; a message a quarter of a second more.
SLOW = {"gflops": 1e-6, "up": 32e-6, "down": 16e-6, "latency": 0.25}
ALL_SLOW: dict[str, Any] = {"devices": "slow", "profiles": {"slow": SLOW}}


@final
@dataclass(frozen=True)
class Products(Numbers):
    """Client k works for 1000 (k + 1) operations: k + 1 seconds on a slow device. The server for 2000."""

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        _ = torch.ones(5, 10) @ torch.ones(10, 10 * (client.id + 1))
        return number(client.id)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        _ = torch.ones(10, 10) @ torch.ones(10, 10)
        server.report({"used": float(len(uploads))})
        return number(0)


def experiment(strategy: Any = None, *, clients: int = 3, rounds: int = 2, **changes: Any) -> Experiment:
    data = {"clients": clients, "partition": "iid", "train_limit": 60}
    keys = {"strategy": strategy or Products(), "rounds": rounds, "nets": "mlp", "net_options": {"mlp": {"hidden": [4]}}}
    return Experiment(**{**keys, "data": data, "clock": ALL_SLOW, **changes})


def rows(history: History) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in row.items() if key not in (*TIMES, *OF_ENGINE)}
        for row in history.metrics + history.clients
    ]


def seconds(history: History) -> list[float]:
    return [row["simulated_seconds"] for row in history.metrics]


def test_a_round_takes_what_its_slowest_client_takes_as_one_works_out_by_hand() -> None:
    """Up 1.25 s; down 0.25 s of nothing in round 1, then 2.25 s of 4 bytes; k + 1 s of work."""
    history = simulate(experiment())
    assert seconds(history) == pytest.approx([0, 0.25 + 3 + 1.25, 2.25 + 3 + 1.25])
    lines = {(row["round"], row["client"]): row for row in history.clients if "device" in row}
    assert lines[2, 1]["simulated_seconds"] == pytest.approx(2.25 + 2 + 1.25)
    parts = {key: lines[2, 1][key] for key in ("down_seconds", "compute_seconds", "up_seconds", "flops", "device")}
    expected = {"down_seconds": 2.25, "compute_seconds": 2.0, "up_seconds": 1.25, "flops": 1000.0 * 2, "device": "slow"}
    assert parts == pytest.approx(expected)


def test_fewer_coded_bytes_take_less_time() -> None:
    """In half precision a number takes half a second up, and one down."""
    history = simulate(experiment(uplink="float16", downlink="float16"))
    assert seconds(history) == pytest.approx([0, 0.25 + 3 + 0.75, 1.25 + 3 + 0.75])


def test_the_server_takes_time_where_its_speed_is_given() -> None:
    history = simulate(experiment(clock={**ALL_SLOW, "server_gflops": 2e-6}))
    assert seconds(history) == pytest.approx([0, 4.5 + 1, 6.5 + 1])


def test_several_exchanges_take_their_sum() -> None:
    """Three exchanges of nothing but numbers: down 0.25, then 2.25 twice; up 1.25 each."""
    history = simulate(experiment(Counting(), rounds=1))
    assert seconds(history) == pytest.approx([0, 0.25 + 2.25 + 2.25 + 3 * 1.25])


def test_enough_takes_the_first_by_the_clock() -> None:
    history = simulate(experiment(enough=0.5))
    assert [row["clients_late"] for row in history.metrics] == [0, 1, 1]
    assert seconds(history) == pytest.approx([0, 0.25 + 2 + 1.25, 2.25 + 2 + 1.25])
    assert {row["client"] for row in history.clients if row.get("status") == "late"} == {2}


def test_of_two_at_one_moment_the_lower_id_is_first() -> None:
    history = simulate(experiment(Counting(exchanges=1), rounds=1, enough=0.5))
    assert [row["client"] for row in history.clients if row.get("status") == "ok"] == [0, 1]


def test_whoever_outlasts_the_deadline_is_late_and_the_round_lasts_as_long() -> None:
    history = simulate(experiment(clock={**ALL_SLOW, "deadline": 5.0}))
    assert seconds(history) == pytest.approx([0, 4.5, 5])
    late = {(row["round"], row["client"]) for row in history.clients if row.get("status") == "late"}
    assert late == {(2, 1), (2, 2)}  # in round 2, as 4 bytes come down, they take 5.5 and 6.5 s


def test_a_late_upload_is_used_when_it_has_come_and_its_client_is_at_work_until_then() -> None:
    """A round is 4 s. Client 2 comes at 4.5; clients 0 and 1, asked again at 4, come at 8.5 and 9.5, and are not asked at 8."""
    history = simulate(experiment(rounds=3, clock={**ALL_SLOW, "deadline": 4.0}, late_rounds=1))
    assert [row.get("late_used") for row in history.metrics] == [None, 0, 1, 2]
    assert [row["server_used"] for row in history.metrics[1:]] == [2, 1, 2]
    late = {(row["round"], row["client"]): row["reason"] for row in history.clients if row.get("status") == "late"}
    came, at_work = "its upload came late", "still at work on an earlier round"
    assert late == {
        (1, 2): came,
        (2, 0): came,
        (2, 1): came,
        (2, 2): at_work,
        (3, 0): at_work,
        (3, 1): at_work,
        (3, 2): came,
    }


def test_where_all_are_still_at_work_time_goes_on_until_the_first_has_come() -> None:
    history = simulate(experiment(clock={**ALL_SLOW, "deadline": 1.0}, late_rounds=1))
    assert [row["clients_ok"] for row in history.metrics] == [0, 0, 0]
    assert seconds(history) == pytest.approx([0, 1, 1.5])  # client 0 takes 2.5 s
    assert history.metrics[2]["late_used"] == 1


def test_a_client_that_fails_is_heard_of_without_its_work() -> None:
    """Who crashes does so when the broadcast has come, 0.25 s after it was sent, and says it in another 0.25 s."""
    crashes = experiment(rounds=1, faults={"crash": 0.6})
    history = simulate(crashes)
    failed = [row for row in history.clients if row.get("status") == "failed"]
    assert 0 < len(failed) < 3
    assert all(row["simulated_seconds"] == pytest.approx(0.5) for row in failed)
    left = [row["client"] for row in history.clients if row.get("status") == "ok"]
    assert seconds(history) == pytest.approx([0, 0.25 + max(left) + 1 + 1.25])


@pytest.mark.slow
def test_the_same_seconds_on_every_grid(make_grid: Callable[[], JobGrid]) -> None:
    for strategy in (Products(), TwoNets()):
        whole = experiment(strategy, clock={"devices": {"phone": 0.5, "laptop": 0.5}, "deadline": 30.0}, enough=0.7)
        assert rows(simulate(whole, make_grid())) == rows(simulate(whole))


@pytest.mark.slow
def test_peers_whose_passes_are_repeated_where_a_grid_forgets_them_take_the_same_seconds(
    make_grid: Callable[[], JobGrid],
) -> None:
    data = {"clients": 3, "partition": "shared", "train_limit": 40}
    whole = experiment("dml", rounds=1, data=data)
    assert rows(simulate(whole, make_grid())) == rows(simulate(whole))


@pytest.mark.slow
def test_a_clock_changes_nothing_that_is_learned() -> None:
    whole = experiment("fedavg", clock={"devices": "phone"})
    timed, plain = rows(simulate(whole)), rows(simulate(whole.replace(clock={})))
    of_clock = {"simulated_seconds", "device", "flops", "compute_seconds", "up_seconds", "down_seconds"}
    of_wire = {"wire_bytes_up"}  # the metric by which operations are told
    left = [{key: value for key, value in row.items() if key not in of_clock | of_wire} for row in timed]
    assert left == [{key: value for key, value in row.items() if key not in of_wire} for row in plain]
    assert not of_clock & {key for row in plain for key in row}


class PowerCut(Exception):
    pass


@pytest.mark.slow
def test_a_run_that_is_gone_on_with_has_the_same_seconds_and_the_same_late_uploads(tmp_path: Path) -> None:
    """Cut while client 2 is at work on round 1."""
    whole = experiment(rounds=4, clock={**ALL_SLOW, "deadline": 4.0}, late_rounds=1)

    def cut(row: dict[str, Any]) -> None:
        if row["round"] == 1:
            raise PowerCut

    with pytest.raises(PowerCut):
        simulate(whole, out=tmp_path, on_round=cut)
    assert rows(simulate(whole, out=tmp_path, resume=True)) == rows(simulate(whole))


def test_in_a_deployment_the_clock_does_nothing_and_says_so() -> None:
    with pytest.warns(Notice, match=r"\[clock\] does nothing here: the clients are nodes of a deployment"):
        history = simulate(experiment(rounds=1), RenumberedGrid({node: {} for node in (10, 20, 30)}))
    assert all("simulated_seconds" not in row for row in history.metrics)


# Who has what


def test_the_seed_deals_devices_out_by_their_shares_and_not_as_it_deals_nets() -> None:
    clock = {"devices": {"phone": 0.5, "laptop": 0.3, "silo": 0.2}}
    dealt = [[name for name, _ in devices_of(experiment(clients=10, clock=clock, seed=seed))] for seed in (0, 0, 1)]
    assert Counter(dealt[0]) == {"phone": 5, "laptop": 3, "silo": 2}
    assert dealt[0] == dealt[1] != dealt[2]
    mixed = experiment(
        clients=10, clock={"devices": {"phone": 0.5, "laptop": 0.5}}, nets={"cnn": 0.5, "mlp": 0.5}, net_options={}
    )
    nets = [mixed.architecture_of(client) for client in range(10)]
    assert [name == "phone" for name, _ in devices_of(mixed)] != [net == "cnn" for net in nets]


def test_shares_come_as_text_too_and_one_name_is_all_clients() -> None:
    halves = Experiment(clock={"devices": "phone:0.5,laptop:0.5"})
    assert halves.clock.devices == {"phone": 0.5, "laptop": 0.5}
    assert Experiment.from_flat(halves.to_flat()).clock == halves.clock
    assert Experiment(clock={"devices": "phone"}).clock.devices == {"phone": 1.0}
    assert experiment().clock.device("slow").up == SLOW["up"]
    assert experiment(clock={"devices": "phone", "profiles": {"phone": SLOW}}).clock.device("phone") != PROFILES["phone"]


def test_a_table_names_each_clients_device(tmp_path: Path) -> None:
    table = tmp_path / "devices.csv"
    table.write_text("client,gflops,up,down,latency\n1,2,3,4,0\n0,5,6,7,0.5\n")
    (name, first), (_, second) = devices_of(experiment(clients=2, clock={"table": str(table)}))
    assert (name, first.gflops, first.latency) == ("client 0", 5.0, 0.5)
    assert (second.gflops, second.up, second.down) == (2.0, 3.0, 4.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("client,gflops,up,down,latency\n0,1,1,1,0\n", "has no line for client 1: give each of 2 clients one"),
        ("client,gflops,up,down,latency\n0,1,1,1,0\n0,1,1,1,0\n", "line 3: client 0 stands there twice"),
        ("client,gflops,up,down,latency\n7,1,1,1,0\n", "line 2: client 7 is none of the 2 clients, 0 to 1"),
        ("client,gflops,up,down,latency\n0,fast,1,1,0\n", "line 2 does not hold client, gflops, up, down"),
        ("client,gflops,up,down,latency\n0,0,1,1,0\n", "line 2 does not hold client, gflops, up, down"),
        ("0,1,1,1,0\n1,1,1,1,0\n", "with the heading client,gflops,up,down,latency"),
        (None, "devices.csv cannot be read: No such file or directory"),
    ],
)
def test_a_table_that_is_none_is_refused_in_one_line(text: str | None, message: str, tmp_path: Path) -> None:
    table = tmp_path / "devices.csv"
    if text is not None:
        table.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        simulate(experiment(clients=2, clock={"table": str(table)}), out=tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"clock": {"devices": {"phone": 0.5, "laptp": 0.5}}}, "unknown clock.devices 'laptp': did you mean 'laptop'"),
        ({"clock": {"devices": {"phone": 0.5}}}, "clock.devices: the shares sum to 0.5"),
        ({"clock": {"devices": {"phone": 1.5}}}, "the share of 'phone' is 1.5"),
        ({"clock": {"devices": "phone", "table": "a.csv"}}, "both say what clients compute with"),
        ({"clock": {"devices": "phone", "profiles": {"a": {"gflops": 0, "up": 1, "down": 1}}}}, "clock.profiles.a.gflops"),
        (
            {"clock": {"deadline": 3.0}},
            "clock.deadline = 3.0 does nothing here: there is no clock: say what clients compute with",
        ),
        ({"clock": {"devices": "phone"}, "faults": {"straggle": 0.1}}, "which says who is late: set clock.deadline, or enough"),
    ],
)
def test_a_clock_that_cannot_be_is_refused_in_one_line(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        Experiment(**keys)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_profiles_that_nobody_has_are_told() -> None:
    with pytest.warns(Notice, match=r"clock.profiles .* does nothing here: clock.devices names none of them"):
        Experiment(clock={"devices": "phone", "profiles": {"slow": SLOW}})
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        Experiment(clock=ALL_SLOW)


# What is counted


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_a_net_counts_alike_however_it_is_called(mode: Callable[[], Any]) -> None:
    """A linear map of 8 samples from 3 to 5 numbers, and a convolution to 2 maps of 4 x 4 by windows of 3 x 3."""
    linear, convolution = torch.nn.Linear(3, 5), torch.nn.Conv2d(1, 2, 3, padding=1)
    with mode(), CountedWork() as work:
        linear(torch.ones(8, 3))
    assert work.flops == 2 * 8 * 3 * 5
    with mode(), CountedWork() as work:
        convolution(torch.ones(8, 1, 4, 4))
    assert work.flops == 2 * 8 * 2 * 4 * 4 * 9


def test_backward_counts_too() -> None:
    linear = torch.nn.Linear(3, 5)
    with CountedWork() as work:
        linear(torch.ones(8, 3, requires_grad=True)).sum().backward()
    assert work.flops == 3 * 2 * 8 * 3 * 5  # forward, and the gradients of input and of weights


def test_a_transformers_layer_counts_alike_in_one_kernel_and_in_many() -> None:
    layer = torch.nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    counted = []
    for training in (True, False):
        layer.train(training)
        with torch.no_grad(), CountedWork() as work:
            layer(torch.ones(3, 7, 16))
        counted.append(work.flops)
    by_hand = 2 * 3 * 7 * (16 * 48 + 16 * 16 + 2 * 16 * 32) + 2 * 2 * 3 * 7 * 7 * 16
    assert counted == [by_hand, by_hand]


def test_an_lstm_counts() -> None:
    with torch.no_grad(), CountedWork() as work:
        torch.nn.LSTM(3, 5, batch_first=True)(torch.ones(2, 7, 3))
    assert work.flops == 2 * 2 * 7 * 4 * 5 * (3 + 5)


def test_what_repeats_earlier_work_is_not_counted() -> None:
    with CountedWork() as work:
        with uncounted():
            torch.ones(2, 2) @ torch.ones(2, 2)
        torch.ones(2, 2) @ torch.ones(2, 2)
    assert work.flops == 16


def test_of_batches_of_one_size_two_are_looked_at_and_all_are_counted() -> None:
    """What the first computes for all is counted once."""
    linear, table, alike, looked_at = torch.nn.Linear(3, 5), dict[str, torch.Tensor](), Alike(), []
    with torch.no_grad(), CountedWork() as work:
        for size in (4, 4, 4, 4, 2):
            with alike.batch(size):
                if not table:
                    table["for all"] = torch.ones(10, 1) @ torch.ones(1, 10)
                before = work.flops
                linear(torch.ones(size, 3))
                looked_at.append(work.flops > before)
    assert work.flops == 2 * (4 * 4 + 2) * 3 * 5 + 2 * 10 * 10
    assert looked_at == [True, True, False, False, True]
