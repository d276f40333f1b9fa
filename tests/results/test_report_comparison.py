"""The report of several groups holds them against each other as `fedkd compare` does, or says why nobody should."""

from __future__ import annotations

import re
from pathlib import Path

from run_rows import MakeRun, rows_of

from fedkd.results.recorded import find_runs, group_seeds
from fedkd.results.report import render
from fedkd.results.report.comparison import comparison, explained
from fedkd.results.report.convergence import convergence


def text_of(page: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


def test_groups_are_compared_first_of_all(tmp_path: Path, make_run: MakeRun) -> None:
    for seed, (low, high) in enumerate([(0.50, 0.61), (0.52, 0.62), (0.51, 0.63)]):
        make_run(f"runs/a-{seed}", strategy="fedavg", seed=seed, rows=rows_of(0.1, low), finish=True)
        make_run(f"runs/b-{seed}", strategy="fedprox", seed=seed, rows=rows_of(0.1, high), finish=True)
    page = render(find_runs([tmp_path / "runs"]))
    assert page.index('id="comparison"') < page.index('id="convergence"')
    assert "fedprox 3 +11.0 [8.5, 13.5]" in text_of(page) and "must not be held" not in page


def test_a_probe_and_a_classifier_are_not_compared(tmp_path: Path, make_run: MakeRun) -> None:
    for name, whose in (("fedavg", "global classifier"), ("fedx", "linear probe of the global net")):
        rows = [{**row, "accuracy_of": whose} for row in rows_of(0.1, 0.5)]
        make_run(f"runs/{name}", strategy=name, rows=rows, finish=True)
    page = render(find_runs([tmp_path / "runs"]))
    assert 'id="comparison"' not in page
    assert "These numbers must not be held against each other: fedavg (a classifier) and fedx (a linear probe)" in text_of(page)


def test_a_run_that_goes_on_is_not_compared(tmp_path: Path, make_run: MakeRun) -> None:
    make_run("runs/a", strategy="fedavg", rows=rows_of(0.1, 0.5), finish=True)
    going_on = make_run("runs/b", strategy="fedprox")  # of two rounds
    for row in rows_of(0.1, 0.5):
        going_on.append(row, [])
    assert comparison(group_seeds(find_runs([tmp_path / "runs"]))).empty


def test_a_run_that_failed_is_not_drawn_beside_others(tmp_path: Path, make_run: MakeRun) -> None:
    make_run("runs/a", strategy="fedavg", rows=rows_of(0.1, 0.5), finish=True)
    failed = {"round": 1, "accuracy": 0.3, "seconds": 1.0, "clients_ok": 0, "clients_failed": 2}
    make_run("runs/b", strategy="fedprox", rows=[*rows_of(0.1), failed])
    section = convergence(group_seeds(find_runs([tmp_path / "runs"])))
    assert {row[1] for row in section.figures[0].table.rows} == {"fedavg"}


def test_a_note_has_a_term_where_it_begins_with_one() -> None:
    assert explained("best: chosen on the test set") == ("best", "chosen on the test set")
    assert explained("no seed is shared") == ("note", "no seed is shared")
