"""Rows go to other tools beside the run's own files: each tool reads back what it was given."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from fedkd import Experiment, simulate
from fedkd.base.errors import InputError, Notice
from fedkd.experiment.algorithm.record_section import SINKS
from fedkd.results.logs import read_clients, read_metrics
from fedkd.results.sinks import parquet, sink
from fedkd.results.sinks.sink import About, Sink, check_sinks, find_sink


def experiment(*names: str, rounds: int = 2) -> Experiment:
    data = {"clients": 3, "train_limit": 90, "partition": "iid"}
    return Experiment(rounds=rounds, nets="mlp", strategy="local", data=data, record={"sinks": names})


def accuracies(path: Path) -> dict[int, float]:
    """What the run's own rows say."""
    return {row["round"]: row["client_accuracy"] for row in read_metrics(path)}


def of_tensorboard(path: Path) -> dict[int, float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(path / "tensorboard"))
    read.Reload()
    return {event.step: event.value for event in read.Scalars("client_accuracy")}


def records_of(file: Path) -> Iterator[bytes]:
    """The records of a W&B file: LevelDB's log format behind a header of seven bytes."""
    data, at, record = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (rest := 32768 - at % 32768) < 7:
            at += rest
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        record += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # the whole of a record, or its last part
            yield record
            record = b""


def of_wandb(path: Path) -> dict[int, float]:
    from wandb.proto.wandb_internal_pb2 import Record

    found: dict[int, float] = {}
    for file in sorted((path / "wandb").glob("offline-run-*/*.wandb")):
        for data in records_of(file):
            history = Record.FromString(data).history
            items = {item.key or item.nested_key[0]: item.value_json for item in history.item}
            if "client_accuracy" in items:
                found[history.step.num] = float(items["client_accuracy"])
    return found


def of_mlflow(path: Path) -> dict[int, float]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{path / 'mlflow' / 'mlflow.db'}")
    history = client.get_metric_history((path / "mlflow" / "run_id").read_text().strip(), "client_accuracy")
    return {metric.step: metric.value for metric in history}


def of_trackio(path: Path) -> dict[int, float]:
    from trackio.sqlite_storage import SQLiteStorage

    logs = SQLiteStorage.get_logs("fedkd", "/".join(path.parts[-2:]))
    return {int(entry["step"]): float(entry["client_accuracy"]) for entry in logs}


def of_parquet(path: Path) -> dict[int, float]:
    import pandas as pd

    table = pd.read_parquet(path / "clients.parquet")
    lines = read_clients(path)
    assert len(table) == len(lines) and list(table["client"]) == [line["client"] for line in lines]
    return {int(str(round)): float(mean) for round, mean in table.groupby("round")["accuracy"].mean().items()}


READ = {"tensorboard": of_tensorboard, "wandb": of_wandb, "mlflow": of_mlflow, "trackio": of_trackio, "parquet": of_parquet}


@pytest.mark.slow
@pytest.mark.parametrize("name", SINKS)
def test_a_tool_has_the_rows_of_the_run_also_after_a_break(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec(find_sink(name).needs) is None:
        pytest.skip(f"{name} is not installed")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    whole, place = experiment(name), tmp_path / "run"

    def stop(row: Mapping[str, Any]) -> None:
        if row["round"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(whole, out=place, on_round=stop)
    simulate(whole, out=place, resume=True)
    assert READ[name](place) == pytest.approx(accuracies(place), abs=1e-6)


def test_every_sink_is_one_file_and_read_back_here() -> None:
    files = {path.stem for path in Path(str(sink.__file__)).parent.glob("*.py")} - {"__init__", "sink"}
    assert files == set(SINKS) == set(READ)
    assert all(issubclass(find_sink(name), Sink) for name in SINKS)


def test_what_is_not_installed_is_said_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'record\.sinks: "wandb" needs a package: pip install "fedkd\[wandb\]"'):
        simulate(experiment("wandb"), out=tmp_path / "run")
    assert not list(tmp_path.iterdir())
    check_sinks([])


def test_an_unknown_name_and_a_run_without_a_directory() -> None:
    with pytest.raises(InputError, match=r"record\.sinks: 'tensorbord' is unknown: did you mean 'tensorboard'"):
        experiment("tensorbord")
    with pytest.raises(InputError, match=r"record\.sinks: they go with a run's directory"):
        simulate(experiment("parquet"))


@pytest.mark.parametrize("broken", ["__init__", "write", "close"])
def test_a_tool_that_fails_is_told_of_once_and_the_run_goes_on(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("the tool's server is away\nand more")

    monkeypatch.setattr(parquet.Writer, broken, fail)
    with pytest.warns(
        Notice, match=r'"parquet" is left away from here on, as it failed \(the tool\'s server is away\)'
    ) as said:
        history = simulate(experiment("parquet"), out=tmp_path / "run")
    assert len([each for each in said if "left away" in str(each.message)]) == 1
    assert len(history.metrics) == 3 and not (tmp_path / "run" / "clients.parquet").exists()


NAMES_NO_SINK = """
import sys
from fedkd import Experiment, simulate
data = {"clients": 2, "train_limit": 60, "partition": "iid"}
simulate(Experiment(rounds=1, nets="mlp", strategy="local", data=data), out=sys.argv[1])
assert not {"tensorboard", "wandb", "mlflow", "trackio"} & sys.modules.keys()
"""


def test_no_tool_is_imported_that_is_not_named(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", NAMES_NO_SINK, str(tmp_path / "run")], check=True)


def test_seeds_of_one_experiment_are_a_group() -> None:
    seed = About(Path("runs/alpha/seed-3"), {"seed": 3, "strategy.name": "fedmd"}, -1)
    alone = About(Path("runs/first"), {"seed": 3, "strategy.name": "fedmd"}, -1)
    assert seed.group == "alpha" and alone.group == "fedmd"
