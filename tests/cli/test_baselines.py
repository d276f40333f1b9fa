"""`fedkd run --baselines`: what a result is held against, and the table at the end."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_cli import Fedkd
from test_cli import fedkd as fedkd  # the fixture

from fedkd import Experiment
from fedkd.cli.baselines import baselines_of, comparison
from fedkd.results.recorded import RecordedRun


def experiment(**changes: object) -> Experiment:
    values = {"strategy": "fedprox", "rounds": 3, "seed": 5, "data": {"clients": 4, "public": 50}, "train": {"lr": 0.2}}
    return Experiment(**{**values, **changes})


def test_a_baseline_is_the_experiment_itself_but_for_the_strategy() -> None:
    asked = experiment()
    baselines = baselines_of(asked)
    assert list(baselines) == ["local", "centralised", "ensemble", "fedavg"]
    for name, baseline in baselines.items():
        assert baseline.to_tables() == {**asked.to_tables(), "strategy": {"name": name}}


def test_nobody_is_its_own_baseline() -> None:
    assert list(baselines_of(experiment(strategy="ensemble"))) == ["local", "centralised", "fedavg"]


def test_what_the_clients_cannot_do_is_left_out() -> None:
    assert list(baselines_of(experiment(strategy="fml", nets={"cnn": 0.5, "mlp": 0.5}))) == ["local", "centralised", "ensemble"]
    assert baselines_of(experiment(strategy="fedsimclr", data={"labelled": 0.0})) == {}


def recorded(path: str, strategy: str, seed: int, **metrics: list[float]) -> RecordedRun:
    rows = [{"round": i, **{key: values[i] for key, values in metrics.items()}} for i in range(len(metrics["accuracy"]))]
    return RecordedRun(Path(path), {"strategy.name": strategy, "seed": seed}, rows)


def test_the_table_has_a_row_a_strategy_with_the_last_accuracies_and_all_bytes() -> None:
    """Seeds are one row: their mean with a 95 % interval, half width t(0.975, 1) = 12.706 times 1 % here."""
    runs = [
        recorded("a", "fml", 0, accuracy=[0.1, 0.9, 0.5], client_accuracy=[0.1, 0.2, 0.75], bytes_up=[0, 1000, 1000]),
        recorded("b", "local", 0, accuracy=[0.1, 0.2, 0.3], bytes_up=[0, 0, 0]),
        recorded("c", "fml", 1, accuracy=[0.1, 0.9, 0.52], client_accuracy=[0.1, 0.2, 0.75], bytes_up=[0, 2000, 2000]),
    ]
    whose = {"global accuracy of": "classifier"}
    assert comparison(runs) == [
        {"strategy": "fml", "client accuracy": "75.0 ± 0.0 %", "global accuracy": "51.0 ± 12.7 %", "uploaded": "3.0 kB"}
        | whose,
        {"strategy": "local", "client accuracy": "", "global accuracy": "30.0 %", "uploaded": "0 B"} | whose,
    ]


@pytest.mark.slow
def test_the_command_runs_them_beside_it_and_ends_with_one_table(fedkd: Fedkd) -> None:
    done = fedkd("fedkd run small.toml --baselines --set strategy.name=fedprox --out mine")
    assert (done.code, done.err) == (0, "")
    places = ["mine", "mine-local", "mine-centralised", "mine-ensemble", "mine-fedavg"]
    assert sorted(path.name for path in Path().iterdir() if path.is_dir()) == sorted(places)
    heading, *rows = done.out.splitlines()[-6:]
    headings = ["strategy", "client accuracy", "global accuracy", "global accuracy of", "uploaded"]
    assert re.split(r"\s{2,}", heading) == headings
    assert [row.split()[0] for row in rows] == ["fedprox", "local", "centralised", "ensemble", "fedavg"]
    uploaded = {row.split()[0]: " ".join(row.split()[-2:]) for row in rows}
    assert uploaded["local"] == uploaded["centralised"] == "0 B"
    assert uploaded["fedprox"] == uploaded["fedavg"] == uploaded["ensemble"] != "0 B"  # the same net, each client and round
    again = fedkd("fedkd run small.toml --baselines --set strategy.name=fedprox --out mine")
    assert [line for line in again.out.splitlines() if line.endswith("all rounds done, skipped")] == [
        f"{place}: all rounds done, skipped" for place in places
    ]
    assert again.out.splitlines()[-6:] == done.out.splitlines()[-6:]


@pytest.mark.slow
def test_of_several_seeds_each_has_its_baselines(fedkd: Fedkd) -> None:
    done = fedkd("fedkd run small.toml --baselines --seeds 0,1 --out sweep --set rounds=1 --quiet")
    assert done.code == 0
    assert {path.name for path in Path("sweep").iterdir()} == {
        f"seed-{seed}{name}" for seed in (0, 1) for name in ("", "-local", "-centralised", "-ensemble")
    }
    assert [line.split()[0] for line in done.out.splitlines()[-4:]] == ["fedavg", "local", "centralised", "ensemble"]


def test_the_samples_of_all_clients_are_at_no_place_where_each_has_its_own() -> None:
    asked = Experiment(strategy="fedavg", data={"source": "sites", "partition": "own"})
    assert list(baselines_of(asked)) == ["local", "ensemble"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("fedkd run --resume there --baselines", "leave --baselines away"),
        ("fedkd run small.toml --baselines --out .", "has no name"),
    ],
)
def test_bad_input_is_one_line(fedkd: Fedkd, line: str, message: str) -> None:
    done = fedkd(line)
    (error,) = done.err.splitlines()
    assert done.code == 2 and message in error
    assert [path.name for path in Path().iterdir()] == ["small.toml"]
