"""Which runs belong together, and the numbers that sum them up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from run_rows import MakeRun, rows_of

from fedkd.base.errors import InputError
from fedkd.results.curves import accuracy_name, curve, measures
from fedkd.results.recorded import RecordedRun, find_runs, group_seeds
from fedkd.results.statistics import duration, mean_interval, percent, size, summary


def test_seeds_of_one_experiment_are_one_group(tmp_path: Path, make_run: MakeRun) -> None:
    for seed in range(3):
        make_run(f"fedx/seed-{seed}", seed=seed)
    make_run("fedavg", strategy="fedavg")
    groups = group_seeds(find_runs([tmp_path / "fedx", tmp_path / "fedavg", tmp_path / "fedx" / "seed-0"]))
    assert [(group.label, [run.seed for run in group.runs]) for group in groups] == [
        ("fedx", [0, 1, 2]),  # the run named twice counts once
        ("fedavg", [0]),
    ]


def test_labels_name_what_differs(make_run: MakeRun) -> None:
    runs = [RecordedRun.read(make_run(f"a{alpha}", alpha=alpha).path) for alpha in (0.1, 1.0)]
    assert [group.label for group in group_seeds(runs)] == ["fedx (alpha 0.1)", "fedx (alpha 1.0)"]


def test_a_path_that_holds_no_run_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no run and holds none"):
        find_runs([tmp_path])


def test_a_run_is_finished_with_all_rounds_and_its_report(make_run: MakeRun) -> None:
    complete, stopped = make_run("complete", rows=rows_of(0.1, 0.2)), make_run("stopped", rows=rows_of(0.1, 0.2))
    complete.finish([])
    assert RecordedRun.read(complete.path).finished
    assert not RecordedRun.read(stopped.path).finished
    assert RecordedRun.read(stopped.path).rounds_done == 1


def test_summary_over_the_rounds_that_were_measured() -> None:
    found = summary(rows_of(0.1, 0.4, None, 0.6, 0.8, 0.8, 0.5))
    assert found is not None
    assert (found.last, found.last_round, found.best, found.best_round) == (0.5, 6, 0.8, 4)
    assert found.mean_last_five == pytest.approx((0.4 + 0.6 + 0.8 + 0.8 + 0.5) / 5)
    assert found.averaged == 5
    assert (few := summary(rows_of(0.1, 0.4, None, 0.6))) and few.averaged == 2 and few.mean_last_five == pytest.approx(0.5)
    assert summary(rows_of(None, None)) is None


def test_interval_of_student() -> None:
    mean, half = mean_interval(np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]]))
    assert mean.tolist() == [2.0, 5.0]
    assert half == pytest.approx([4.302653 / np.sqrt(3), 0.0])  # t(0.975, 2) and a standard deviation of 1
    assert np.isnan(mean_interval([0.5])[1])
    assert (percent([0.5]), percent([0.49, 0.5, 0.51])) == ("50.0 %", "50.0 ± 2.5 %")


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (46_028_704, "46.0 MB"), (9.996e5, "1.0 MB")]
)
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.97, "1 min 00 s"), (75, "1 min 15 s"), (7260, "2 h 01 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_curves_are_means_over_seeds_against_sums(make_run: MakeRun) -> None:
    low, high = rows_of(0.1, 0.2, 0.3), rows_of(0.3, 0.4, None, up=3000)
    runs = [RecordedRun.read(make_run(f"s{seed}", seed=seed, rows=rows).path) for seed, rows in enumerate((low, high))]
    (group,) = group_seeds(runs)
    line = curve(group, "accuracy")
    assert line.seeds == (0, 1)
    assert line.rounds.tolist() == [0, 1]  # round 2 was not measured by both
    assert line.mean == pytest.approx([0.2, 0.3])
    assert line.half_width == pytest.approx([1.270620, 1.270620], rel=1e-5)  # t(0.975, 1) = 12.706, s / sqrt(2) = 0.1
    assert np.isnan(line.uploaded[0]) and line.uploaded[1] == 2000  # nothing was sent before round 1
    assert line.seconds.tolist() == [2.0, 4.0]


def test_the_axis_names_the_measure_and_the_legend_does_where_they_differ(make_run: MakeRun) -> None:
    probed = [{**row, "accuracy_of": "linear probe of the encoder, at the server"} for row in rows_of(0.1, 0.2)]
    groups = group_seeds([RecordedRun.read(make_run("probed", rows=probed).path)])
    curves = [curve(group, "accuracy") for group in groups]
    assert accuracy_name(curves, "accuracy") == "test accuracy\n(linear probe of the encoder, at the server)"
    groups += group_seeds([RecordedRun.read(make_run("direct", strategy="fedavg", rows=rows_of(0.1, 0.2)).path)])
    curves = [curve(group, "accuracy") for group in groups]
    assert accuracy_name(curves, "accuracy") == "test accuracy"
    assert measures(curves) == ["linear probe of the encoder, at the server", "classifier"]
    assert accuracy_name([curve(group, "bytes_up") for group in groups], "knn_accuracy") == "kNN accuracy"


def test_a_label_names_few_keys_unless_it_takes_more(make_run: MakeRun) -> None:
    far = {"alpha": 9.0, "batch": 9, "clients_of": 9, "depth": 9, "extra": 9}
    near = {key: 1 for key in far}
    runs = [make_run("near", **near).path, make_run("far", **far).path]
    labels = [group.label for group in group_seeds(find_runs(runs))]
    assert labels[1] == "fedx (alpha 9.0, batch 9, clients_of 9, depth 9, and 1 more key)"
    runs.append(make_run("beside", **{**far, "extra": 8}).path)
    assert group_seeds(find_runs(runs))[2].label == "fedx (alpha 9.0, batch 9, clients_of 9, depth 9, extra 8)"


def test_a_label_does_not_pass_a_criterion_for_a_result(make_run: MakeRun) -> None:
    runs = []
    for name, target in (("a", 0.5), ("b", 0.9)):
        path = make_run(name).path
        text = (path / "experiment.toml").read_text()
        (path / "experiment.toml").write_text(f"{text}[stop]\naccuracy = {target}\n")
        runs.append(path)
    assert [group.label for group in group_seeds(find_runs(runs))] == ["fedx (stop.accuracy 0.5)", "fedx (stop.accuracy 0.9)"]


def test_a_seed_that_keeps_more_is_of_the_same_group(make_run: MakeRun) -> None:
    plain, kept = make_run("seed-0").path, make_run("seed-1", seed=1).path
    text = (kept / "experiment.toml").read_text()
    (kept / "experiment.toml").write_text(f"{text}[record]\nuploads = true\nsinks = ['parquet']\n")
    (group,) = group_seeds(find_runs([plain, kept]))
    assert (group.label, [run.seed for run in group.runs]) == ("fedx", [0, 1])
