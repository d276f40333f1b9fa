"""data.json: a run says which data it saw, so that nobody has to guess later."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from run_rows import MakeRun, rows_of

from fedkd import Experiment, InputError, simulate
from fedkd.results.data import RecordedData
from fedkd.results.recorded import RecordedRun


def digits(**data: object) -> Experiment:
    return Experiment(rounds=1, nets="mlp", data={"clients": 3, "train_limit": 60, "partition": "iid", **data})


@pytest.mark.slow
def test_a_run_records_content_names_normalisation_and_who_holds_what(tmp_path: Path) -> None:
    experiment = digits(public=10, validation=6)
    simulate(experiment, out=tmp_path / "run")
    federation, held = experiment.federation(), json.loads((tmp_path / "run" / "data.json").read_text())
    assert held["content_hash"] == federation.source.content_hash
    assert held["classes"] == [str(digit) for digit in range(10)]
    assert (held["shape"], held["public"], held["validation"]) == ([1, 8, 8], 10, 6)
    assert sum(held["client_train"]) + sum(held["client_test"]) == 60 - 10 - 6
    assert [sum(client) for client in held["client_classes"]] == held["client_train"]
    assert held["mean"] == federation.source.moments.mean.tolist()
    assert RecordedRun.read(tmp_path / "run").data == RecordedData.of(federation)


def test_another_draw_is_another_partition_of_the_same_content() -> None:
    one, other = (RecordedData.of(digits().replace(seed=seed).federation()) for seed in (0, 1))
    assert one.content_hash == other.content_hash
    assert one.partition_hash != other.partition_hash


def test_a_label_that_may_not_be_used_is_not_counted() -> None:
    assert sum(map(sum, RecordedData.of(digits(labelled=0.5).federation()).client_classes)) == 24  # of 48


def test_runs_of_an_earlier_fedkd_are_read_and_a_damaged_file_is_one_line(make_run: MakeRun) -> None:
    run = make_run(rows=rows_of(0.1, 0.2))
    whole = json.loads((run.path / "data.json").read_text())
    (run.path / "data.json").unlink()
    assert RecordedRun.read(run.path).data is None
    whole["classes"] = 3
    for text in ("{", "[]", "{}", json.dumps(whole)):
        (run.path / "data.json").write_text(text)
        with pytest.raises(InputError, match=r"data\.json is damaged"):
            _ = RecordedRun.read(run.path).data


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    data = replace(RecordedData.of(digits().federation()), classes=("grün", "a\nb", "$\\", "<script>"))
    data.write(tmp_path)
    assert RecordedData.read(tmp_path) == data
