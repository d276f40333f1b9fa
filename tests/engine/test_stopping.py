"""A run that stops before its last round: by each criterion, the same where it is gone on with, and known to be done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

import pytest
from contract import Counting, Numbers, number
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Result
from flwr.serverapp.strategy import Strategy as FlowerStrategy

from fedkd import Client, Experiment, InputError, Knowledge, Server, simulate
from fedkd.app import client_app
from fedkd.base.errors import Notice
from fedkd.engine.cells import Cell, State
from fedkd.grids import InProcessGrid, run_app
from fedkd.results.recorded import RecordedRun
from fedkd.results.round_lines import PlainLines
from fedkd.results.stopping import reason_to_stop


def experiment(**changes: Any) -> Experiment:
    data = {"clients": 2, "partition": "iid", "train_limit": 60}
    return Experiment(**{"rounds": 6, "nets": "mlp", "net_options": {"mlp": {"hidden": [4]}}, "data": data, **changes})


def rounds(history: Any) -> list[int]:
    return [row["round"] for row in history.metrics]


@final
@dataclass(frozen=True)
class Losing(Numbers):
    """The server's loss is 3, 2, 2, 2 ... over the rounds."""

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        return number(client.id)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        server.report({"loss": 3.0 if server.round == 1 else 2.0})
        return number(0)


# By each criterion


def test_an_accuracy_that_is_reached_by_training_stops_the_run_and_its_last_row_says_so() -> None:
    history = simulate(experiment(stop={"accuracy": 0.01}))
    assert rounds(history) == [0, 1]  # whatever the net of round 0 gets right
    assert history.metrics[-1]["stopped"].endswith("in round 1 reached stop.accuracy = 0.01")


def test_patience_waits_for_as_many_measurements_without_a_better_one() -> None:
    """The loss falls in round 2 and then no more: it is lower that is better."""
    history = simulate(experiment(strategy=Losing(), stop={"patience": 2, "metric": "server_loss"}))
    assert rounds(history) == [0, 1, 2, 3, 4]
    said = "server_loss has not improved on the 2 of round 2 in 2 measurements (stop.patience)"
    assert history.metrics[-1]["stopped"] == said
    small_steps = experiment(strategy=Losing(), stop={"patience": 2, "metric": "server_loss", "improvement": 1.5})
    assert rounds(simulate(small_steps)) == [0, 1, 2, 3]


def test_bytes_up_and_down_are_counted_together_and_the_last_round_is_evaluated() -> None:
    """Each round two clients send 4 bytes and get 4; in round 1 they get nothing: 8, 24, 40 bytes."""
    history = simulate(experiment(strategy=Counting(exchanges=1), stop={"bytes": "0.04kB"}))
    assert rounds(history) == [0, 1, 2, 3]
    assert history.metrics[-1]["stopped"] == "40 B up and down are over stop.bytes = 40 B"
    seldom = experiment(strategy="fedavg", evaluate_every=5, stop={"bytes": 1})
    assert [row["round"] for row in simulate(seldom).metrics if "accuracy" in row] == [0, 1]


def test_seconds_of_either_clock_stop_a_run() -> None:
    slow = {"devices": "slow", "profiles": {"slow": {"gflops": 1, "up": 1, "down": 1, "latency": 0.5}}}
    timed = experiment(strategy=Counting(exchanges=1), clock=slow, stop={"simulated_seconds": 2.0})
    assert rounds(simulate(timed)) == [0, 1, 2]  # each takes a second and a little
    assert rounds(simulate(experiment(stop={"seconds": 1e-9}))) == [0]


def test_the_first_that_is_met_stops_the_run() -> None:
    both = experiment(strategy=Counting(exchanges=1), stop={"bytes": 20, "patience": 5, "metric": "calls"})
    assert rounds(simulate(both)) == [0, 1, 2]


def test_a_run_that_has_all_its_rounds_was_not_stopped() -> None:
    history = simulate(experiment(rounds=1, stop={"accuracy": 0.01}))
    assert "stopped" not in history.metrics[-1]


def test_a_metric_that_is_not_measured_stops_nothing_and_is_told() -> None:
    with pytest.warns(Notice, match="stop.metric: round 1 has no 'probe_accuracy', so it stops nothing; it has accuracy"):
        history = simulate(experiment(rounds=2, stop={"patience": 1, "metric": "probe_accuracy"}))
    assert rounds(history) == [0, 1, 2]


# On disk


@pytest.mark.slow
def test_a_stopped_run_is_done_for_all_that_read_it(tmp_path: Path) -> None:
    whole = experiment(stop={"accuracy": 0.01})
    simulate(whole, out=tmp_path / "run")
    run = RecordedRun.read(tmp_path / "run")
    assert run.finished and run.stopped.endswith("stop.accuracy = 0.01")
    assert Cell(whole, tmp_path / "run").state is State.DONE
    loosened = whole.replace(stop={"bytes": "1GB"})
    assert Cell(loosened, tmp_path / "run").state is State.UNFINISHED
    assert rounds(simulate(loosened, out=tmp_path / "run", resume=True)) == list(range(7))
    assert RecordedRun.read(tmp_path / "run").stopped == ""


class PowerCut(Exception):
    pass


@pytest.mark.slow
def test_a_run_that_is_gone_on_with_stops_where_an_unbroken_one_does(tmp_path: Path) -> None:
    whole = experiment(strategy=Losing(), stop={"patience": 2, "metric": "server_loss"})

    def cut(row: dict[str, Any]) -> None:
        if row["round"] == 3:
            raise PowerCut

    with pytest.raises(PowerCut):
        simulate(whole, out=tmp_path / "run", on_round=cut)
    assert not RecordedRun.read(tmp_path / "run").finished
    history = simulate(whole, out=tmp_path / "run", resume=True)
    assert [row.get("stopped") for row in history.metrics] == [row.get("stopped") for row in simulate(whole).metrics]
    assert RecordedRun.read(tmp_path / "run").finished


def test_the_console_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    PlainLines("a run", 20).row(
        {"round": 5, "seconds": 1.0, "stopped": "accuracy 0.812 in round 5 reached stop.accuracy = 0.8"}
    )
    assert "stopped after round 5 of 20: accuracy 0.812 in round 5 reached stop.accuracy = 0.8" in capsys.readouterr().out


# Flower's should_stop


def test_flowers_should_stop_is_asked_after_each_round_with_what_there_is_so_far() -> None:
    asked: list[tuple[int, list[int]]] = []

    def should_stop(round: int, result: Result) -> bool:
        asked.append((round, sorted(result.evaluate_metrics_serverapp)))
        return round == 2

    whole = experiment()
    app, results = ServerApp(), list[Result]()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        config = ConfigRecord(dict(whole.to_flat()))

        def score(round: int, arrays: ArrayRecord) -> MetricRecord:
            return MetricRecord({"tensors": len(arrays)})

        start = partial(whole.strategy.start, grid, train_config=config, num_rounds=5)
        results.append(start(evaluate_fn=score, should_stop=should_stop))

    run_app(app, client_app(), num_supernodes=2, run_config=whole.to_flat(), grid=InProcessGrid())
    assert asked == [(1, [0, 1]), (2, [0, 1, 2])]
    assert sorted(results[0].train_metrics_clientapp) == [1, 2]


def test_flowers_own_loop_makes_its_rounds_and_says_that_nothing_stops_it() -> None:
    whole, results = experiment(stop={"accuracy": 0.01}), list[Result]()
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        config = ConfigRecord(dict(whole.to_flat()))
        results.append(FlowerStrategy.start(whole.strategy, grid, ArrayRecord(), num_rounds=2, train_config=config))

    with pytest.warns(Notice, match=r"\[stop\] does nothing here: whose loop this is says how many rounds it makes"):
        run_app(app, client_app(), num_supernodes=2, run_config=whole.to_flat(), grid=InProcessGrid())
    assert sorted(results[0].train_metrics_clientapp) == [1, 2]


# What cannot be


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"stop": {"bytes": "fifty"}}, "stop.bytes: 'fifty' is no number of bytes: write 50000000"),
        ({"stop": {"accuracy": 80}}, "stop.accuracy"),
        ({"stop": {"metric": "loss"}}, "neither stop.accuracy nor stop.patience looks at it"),
        ({"stop": {"accuracy": 0.5, "improvement": 0.1}}, "there is no stop.patience"),
        ({"stop": {"simulated_seconds": 60.0}}, "there is no clock: set clock.devices, or stop.seconds"),
    ],
)
def test_a_criterion_that_cannot_be_is_refused_in_one_line(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        experiment(**keys)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_an_accuracy_of_what_is_none_is_refused() -> None:
    with pytest.raises(InputError, match=r"stop.accuracy: stop.metric = 'loss' is no accuracy: name one"):
        simulate(experiment(stop={"accuracy": 0.5, "metric": "loss"}))


def test_rows_alone_say_when_a_run_stops() -> None:
    stop = experiment(stop={"accuracy": 0.6, "patience": 3}).stop
    rows = [{"round": round, "accuracy": value} for round, value in enumerate([0.7, 0.1, 0.3, 0.3, 0.2])]
    assert [bool(reason_to_stop(stop, rows[:many])) for many in range(1, 6)] == [False] * 5
    assert reason_to_stop(stop, [*rows, {"round": 5}, {"round": 6, "accuracy": 0.3}]).startswith("accuracy has not improved on")
    assert reason_to_stop(stop, [*rows, {"round": 5, "accuracy": 0.6}]).startswith("accuracy 0.6 in round 5 reached")
