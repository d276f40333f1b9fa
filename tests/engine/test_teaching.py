"""What is measured of a teacher that clients' answers make: in each round, by nobody's help, and never in the way."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from fedkd import Experiment, simulate
from fedkd.base.errors import InputError, Notice
from fedkd.engine.round_metrics import RoundMetrics
from fedkd.engine.teaching import Teaching
from fedkd.knowledge.knowledge import Knowledge
from fedkd.results.logs import read_flow
from fedkd.results.row_keys import describe_key

KEYS = {"teacher_accuracy", "student_accuracy", "teacher_agreement", "teacher_entropy", "teacher_calibration_error"}


def experiment(strategy: str | dict[str, Any], rounds: int = 2, **changes: Any) -> Experiment:
    data = {"clients": 3, "partition": "iid", "public": 24, "validation": 10, "train_limit": 120, "test_limit": 20}
    return Experiment(strategy=strategy, nets="mlp", rounds=rounds, data=data | changes.pop("data", {}), **changes)


def run(strategy: str | dict[str, Any], out: Path | None = None, **changes: Any) -> list[dict[str, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        return simulate(experiment(strategy, **changes), out=out).metrics


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy",
    [
        *("dsfl", "cfd", "cronus"),
        {"name": "fedmd", "public_per_round": 16, "private_epochs": 1},
        {"name": "fedmd_nfdp", "knowledge": "labels", "private_epochs": 1, "public_epochs": 0},
        {"name": "feddf", "steps": 20},
    ],
)
def test_every_round_in_which_answers_become_a_teacher_says_how_good_it_is(strategy: Any, tmp_path: Path) -> None:
    rows = run(strategy, tmp_path / "run")
    assert not KEYS & rows[0].keys()
    for row in rows[1:]:
        assert row.keys() >= KEYS and all(0 <= row[key] <= (2.31 if key == "teacher_entropy" else 1) for key in KEYS)
    flow = read_flow(tmp_path / "run")
    assert [row["round"] for row in flow] == [1, 2] and "followed" not in flow[0] and "followed" in flow[1]
    for row in flow:
        assert sum(row["samples"]) == (16 if "public_per_round" in strategy else 24)
        shares = torch.tensor([[value or 0.0 for value in each] for each in row["shares"]])
        assert shares.sum(0).tolist() == pytest.approx([float(count > 0) for count in row["samples"]], abs=1e-3)


def test_methods_without_public_answers_say_nothing_of_a_teacher(tmp_path: Path) -> None:
    rows = run("fedavg", tmp_path / "run", data={"public": 0, "validation": 0})
    assert not any(KEYS & row.keys() for row in rows) and not (tmp_path / "run" / "flow.jsonl").exists()


@pytest.mark.slow
def test_a_run_that_was_broken_off_goes_on_with_the_same_flow(tmp_path: Path) -> None:
    run("dsfl", tmp_path / "whole", rounds=3)
    run("dsfl", tmp_path / "parts", rounds=2)
    with (tmp_path / "parts" / "flow.jsonl").open("a") as file:
        file.write('{"round": 9}\n')  # of a round after the checkpoint
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        simulate(experiment("dsfl", rounds=3), out=tmp_path / "parts", resume=True)
    whole, parts = ((tmp_path / name / "flow.jsonl").read_bytes() for name in ("whole", "parts"))
    assert parts == whole and len(read_flow(tmp_path / "parts")) == 3


class Seat:
    """As much of a server as is looked at."""

    def __init__(self, ids: list[int], classes: int = 2) -> None:
        self.public_ids, self.classes, self.lesson = torch.tensor(ids), classes, None
        self.federation = Hidden()


class Hidden:
    """Public samples whose labels nobody knows."""

    public, public_content = None, ""


def enter(teaching: Teaching, ids: list[int], *answers: list[int], target: list[int]) -> RoundMetrics:
    """One exchange in which clients name classes of samples, and the target too."""
    teaching._server.public_ids = torch.tensor(ids)
    said = {k: Knowledge.of("labels", {"labels": torch.tensor(each)}) for k, each in enumerate(answers)}
    made = Knowledge.of("probabilities", {"target": torch.eye(2)[torch.tensor(target)]})
    metrics = RoundMetrics(1, 1.0)
    teaching.enter(said, made, metrics)
    return metrics


def test_where_nobody_knows_the_labels_there_is_no_accuracy_and_samples_are_found_again_by_their_ids() -> None:
    teaching = Teaching(Seat([7, 3, 5]))  # type: ignore[arg-type]
    first = enter(teaching, [7, 3, 5], [0, 0, 1], [0, 1, 1], target=[0, 0, 1])
    assert first.row == {"round": 1, "teacher_agreement": pytest.approx(2 / 3), "teacher_entropy": 0.0}
    assert first.flow["samples"] == [2, 1] and first.flow["shares"] == [[0.6667, 0.5], [0.3333, 0.5]]
    state = teaching.save()
    goes_on = Teaching(Seat([1]))  # type: ignore[arg-type]
    goes_on.restore(state)
    then = enter(goes_on, [5, 9, 7], [1, 0, 0], [0, 0, 1], target=[1, 0, 0])  # 9 is new; 7 was taught as 0, and 5 as 1
    assert then.flow["followed"] == [[1.0, 1.0], [0.0, 0.0]]


def test_tables_of_another_size_and_personal_answers_make_no_teacher() -> None:
    teaching = Teaching(Seat([7, 3, 5]))  # type: ignore[arg-type]
    table = Knowledge.of("logits", {"logits": torch.zeros(3, 2)})
    for uploads, answer in (({0: table}, {0: table}), ({0: table}, None), ({0: Knowledge()}, table), ({0: table}, Knowledge())):
        metrics = RoundMetrics(1, 1.0)
        teaching.enter(uploads, answer, metrics)  # type: ignore[arg-type]
        assert metrics.row == {"round": 1} and not metrics.flow


def test_a_damaged_flow_is_named_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "flow.jsonl").write_text('{"round": 1, "clients": [0], "samples": [1, 2], "shares": [[1.0]]}\n')
    with pytest.raises(InputError, match=r"flow\.jsonl, line 1 holds no tables of clients and classes"):
        read_flow(tmp_path)


def test_every_key_has_words() -> None:
    assert all("reported by the strategy" not in describe_key(key).meaning for key in KEYS)
