"""Groups of seeds beside each other: numbers by hand, what may not stand in one column, what is left out and said."""

from __future__ import annotations

import csv
import io
import warnings
from pathlib import Path
from typing import Any

import pytest
from run_rows import MakeRun, rows_of

from fedkd.base.errors import InputError, Notice
from fedkd.results.comparison.comparable import only_complete, tell_incomparable
from fedkd.results.comparison.comparison import BETTER, OPEN, UNTESTED, WORSE, Comparison, compare
from fedkd.results.comparison.fairness import client_spread
from fedkd.results.comparison.formats import escaped, to_csv, to_latex, to_markdown, write_comparison
from fedkd.results.comparison.tables import tables_of
from fedkd.results.recorded import Seeds, find_runs, group_seeds

#: Strategy -> what each of its seeds came to in the rounds 0 to 2.
RESULTS = {
    "fedavg": [(0.1, 0.50, 0.40), (0.1, 0.60, 0.50), (0.1, 0.70, 0.60)],
    "fedmd": [(0.1, 0.60, 0.60), (0.1, 0.60, 0.71), (0.1, 0.75, 0.79)],
}


@pytest.fixture
def groups(make_run: MakeRun, tmp_path: Path) -> list[Seeds]:
    """Two groups of three seeds, two levels below their parent."""
    for strategy, seeds in RESULTS.items():
        for seed, accuracies in enumerate(seeds):
            make_run(f"runs/{strategy}/seed-{seed}", strategy=strategy, seed=seed, rows=rows_of(*accuracies))
    return group_seeds(find_runs([tmp_path / "runs"]))


def test_the_tables_by_hand(groups: list[Seeds]) -> None:
    readings, differences = tables_of(compare(groups, last_k=2))
    # t(0.975, 2) = 4.3027; of 0.4, 0.5, 0.6 the half width is 4.3027 x 0.1 / sqrt(3) = 0.248. Of 27 resamples one is three
    # times the smallest value: that is more than the 2.5 % which lie below the bootstrap's border.
    assert readings.rows[0] == {
        "group": "fedavg",
        "seeds": "3",
        "rounds": "2",
        "last": "50.0 ± 24.8 [40.0, 60.0]",
        "best": "60.0 ± 24.8 [50.0, 70.0]",
        "mean of the last 2": "55.0 ± 24.8 [45.0, 65.0]",
    }
    # 0.2, 0.21 and 0.19: mean 0.2, half width 4.3027 x 0.01 / sqrt(3) = 0.0248, t = 34.64, p = 0.000832
    assert differences.rows == [
        {
            "group": "fedmd",
            "shared seeds": "3",
            "difference": "+20.0",
            "95 % interval": "[17.5, 22.5]",
            "p": "<0.001",
            "p, Holm": "<0.001",
            "verdict": "better",
        }
    ]
    assert differences.title.endswith("minus fedavg")
    assert any("10 different resamples of 3 seeds" in note for note in readings.notes)


def test_to_a_target_no_seed_that_missed_it_is_passed_over(groups: list[Seeds]) -> None:
    *_, target = tables_of(compare(groups, target=0.6))
    # rows_of: 1,000 bytes up and two seconds a round, row 0 too
    assert list(target.rows[0].values()) == ["fedavg", "2 of 3 seeds", "(1)", "(1.0 kB)", "(0 B)", "(4.0 s)"]
    assert target.rows[1]["reached by"] == "3 of 3 seeds" and target.rows[1]["rounds"] == "1"
    assert tables_of(compare(groups, target=0.99))[-1].rows[0]["rounds"] == "not reached"
    assert "CPU time" not in target.rows[0]
    with pytest.raises(InputError, match=r"target 80: accuracy is a share of one: give 0\.8 for 80 %"):
        compare(groups, target=80.0)


def test_a_loss_is_better_where_it_is_lower(make_run: MakeRun, tmp_path: Path) -> None:
    for strategy, losses in (("fedavg", (0.5, 0.52, 0.51)), ("fedmd", (0.1, 0.11, 0.12))):
        for seed, loss in enumerate(losses):
            rows = [{"round": round, "loss": loss, "seconds": 1.0} for round in range(2)]
            make_run(f"{strategy}-{seed}", strategy=strategy, seed=seed, rows=rows)
    comparison = compare(group_seeds(find_runs([tmp_path])), metric="loss", target=0.11)
    assert comparison.differences[0].verdict == BETTER
    assert [each is not None for each in comparison.groups[1].reached.values()] == [True, True, False]


def verdicts(comparison: Comparison) -> dict[tuple[str, str], str]:
    return {(each.group, each.against): each.verdict for each in comparison.differences}


def test_it_says_better_only_where_the_interval_and_holm_do(groups: list[Seeds], make_run: MakeRun) -> None:
    assert verdicts(compare(groups, baseline="fedmd")) == {("fedavg", "fedmd"): WORSE}
    for seed, last in enumerate((0.45, 0.58, 0.61)):  # 0.05, 0.08, 0.01: the interval holds 0
        make_run(f"runs/fml/seed-{seed}", strategy="fml", seed=seed, rows=rows_of(0.1, 0.2, last))
    make_run("runs/dsfl/seed-0", strategy="dsfl", rows=rows_of(0.1, 0.2, 0.9))
    place = groups[0].runs[0].path.parents[1]
    with pytest.warns(Notice, match="dsfl has no seeds 1, 2, which others have"):
        found = verdicts(compare(group_seeds(find_runs([place])), baseline=str(place / "fedavg")))
    assert found == {("dsfl", "fedavg"): UNTESTED, ("fedmd", "fedavg"): BETTER, ("fml", "fedavg"): OPEN}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        assert len(compare(group_seeds(find_runs([place])), all_pairs=True).differences) == 6


def test_holm_takes_back_what_one_of_many_comparisons_shows(make_run: MakeRun, tmp_path: Path) -> None:
    """0.02, 0.03, 0.04: t = 5.2, p = 0.035, and the interval leaves 0 out; of two comparisons p is 0.07."""
    for strategy, lasts in (("fedavg", (0.5, 0.5, 0.5)), ("fedmd", (0.52, 0.53, 0.54)), ("fml", (0.4, 0.5, 0.6))):
        for seed, last in enumerate(lasts):
            make_run(f"{strategy}-{seed}", strategy=strategy, seed=seed, rows=rows_of(0.1, last))
    found = group_seeds(find_runs([tmp_path]))
    assert verdicts(compare(found[:2])) == {("fedmd", "fedavg"): BETTER}
    many = compare(found)
    assert many.differences[0].paired.excludes_zero and many.differences[0].p_holm == pytest.approx(0.0702, abs=1e-3)
    assert verdicts(many)["fedmd", "fedavg"] == OPEN


def of(accuracy_of: str) -> list[dict[str, Any]]:
    return [{**row, "accuracy_of": accuracy_of} for row in rows_of(0.1, 0.5)]


@pytest.mark.parametrize(
    ("accuracy_of", "named"),
    [
        ("linear probe of the encoder, at the server", r"fedavg \(a classifier\) and fedx \(a linear probe\)"),
        ("main classifiers, mean over clients, each on its own test samples", "each client's own test samples"),
    ],
)
def test_what_was_measured_otherwise_does_not_stand_in_one_column(
    accuracy_of: str, named: str, make_run: MakeRun, tmp_path: Path
) -> None:
    make_run("a", strategy="fedavg", rows=of("global classifier, at the server"))
    make_run("b", strategy="fedx", rows=of(accuracy_of))
    groups = group_seeds(find_runs([tmp_path]))
    with pytest.raises(InputError, match=named):
        compare(groups)
    with pytest.warns(Notice, match=f"must not be held against each other: .*{named}"):
        tell_incomparable(groups, "accuracy")  # as a figure does, which is drawn
    with pytest.raises(InputError, match="no run has the metric 'client_accuracy'"):
        compare(groups, metric="client_accuracy")


def test_a_global_net_and_clients_own_nets_may(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("a", strategy="fedavg", rows=of("global classifier, at the server"))
    make_run("b", strategy="fedmd", rows=of("clients' own main classifiers, mean"))
    rows = tables_of(compare(group_seeds(find_runs([tmp_path]))))[0].rows
    assert [row["accuracy of"] for row in rows] == ["global classifier, at the server", "clients' own main classifiers, mean"]


def test_other_data_do_not_stand_in_one_column(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("a", strategy="fedavg", rows=rows_of(0.1, 0.5))
    other = make_run("b", strategy="fedmd", rows=rows_of(0.1, 0.5)).path / "data.json"
    text = other.read_text()
    for now, what in (
        (text.replace('"insects"', '"moths"'), "insects and moths"),
        (text.replace('"test": 3', '"test": 4'), "3 and 4 test samples"),
        (text.replace('"content_hash": "', '"content_hash": "0'), "two versions of insects"),
    ):
        other.write_text(now)
        with pytest.raises(InputError, match=f"fedavg and fedmd are on other data \\({what}\\)"):
            compare(group_seeds(find_runs([tmp_path])))


def test_groups_that_differ_in_more_than_their_strategy_are_told_by_key(make_run: MakeRun, tmp_path: Path) -> None:
    for name, strategy, alpha in (("a", "fd", 0.1), ("b", "fd", 1.0), ("c", "fedavg", 0.1)):
        make_run(name, strategy=strategy, alpha=alpha, rows=rows_of(0.1, 0.5))
    text = r"differ in more than their strategy: data\.alpha: differences may be those of the settings"
    with pytest.warns(Notice, match=text):
        compare(group_seeds(find_runs([tmp_path])))
    make_run("d", strategy="fedavg", alpha=1.0, rows=rows_of(0.1, 0.5))  # a whole grid: labels name alpha
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compare(group_seeds(find_runs([tmp_path])))


def test_an_unfinished_and_a_failed_run_are_left_out_and_said(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("done", rows=rows_of(0.1, 0.5))
    late = make_run("late", seed=1, rows=rows_of(0.1, 0.5))
    (late.path / "experiment.toml").write_text(late.experiment_toml().replace("rounds = 1", "rounds = 9"))
    make_run("lost", seed=2, rows=[{"round": 0}, {"round": 1, "clients_ok": 0, "failures": {"0": "OSError: disk full"}}])
    with pytest.warns(Notice) as said:
        assert [run.path.name for run in only_complete(find_runs([tmp_path]))] == ["done"]
    assert [str(each.message).partition(" and is left out")[0] for each in said] == [
        f"{tmp_path / 'late'} is unfinished (1 of 9 rounds)",
        f"{tmp_path / 'lost'} failed",
    ]
    with warnings.catch_warnings(), pytest.raises(InputError, match="none of the 1 runs"):
        warnings.simplefilter("ignore", Notice)
        only_complete(find_runs([tmp_path / "late"]))


def test_a_seed_that_is_there_twice_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_run(name, rows=rows_of(0.1, 0.5))
    with pytest.raises(InputError, match=r"seed 0 is there twice, in .*a and .*b"):
        compare(group_seeds(find_runs([tmp_path])))


def test_an_unknown_or_ambiguous_baseline_is_one_line(groups: list[Seeds], make_run: MakeRun) -> None:
    with pytest.raises(InputError, match=r"--baseline fedavgg: no group is called so: did you mean 'fedavg'\?"):
        compare(groups, baseline="fedavgg")
    for alpha in (0.1, 1.0):
        make_run(f"two/{alpha}", strategy="fedavg", alpha=alpha, rows=rows_of(0.1, 0.5))
    two = group_seeds(find_runs([groups[0].runs[0].path.parents[2] / "two"]))
    with pytest.raises(InputError, match=r"2 groups are called so: name one of 'fedavg \(alpha 0.1\)', 'fedavg \(alpha 1.0\)'"):
        compare(two, baseline="fedavg")


def test_spread_over_clients(make_run: MakeRun, tmp_path: Path) -> None:
    assert client_spread([0.2, 0.4, 0.6]).jain == pytest.approx(1.2**2 / (3 * 0.56))
    assert client_spread([0.0, 0.0]).jain == 1.0
    clients = [{"client": 0, "accuracy": 0.5}, {"client": 1, "accuracy": 1.0}]
    make_run("a", rows=rows_of(0.1, 0.5), clients=clients)
    table = tables_of(compare(group_seeds(find_runs([tmp_path])), per_client=True))[1]
    assert table.rows == [
        {
            "group": "fedx",
            "mean over clients": "75.0",
            "worst tenth": "50.0",
            "standard deviation": "25.0",
            "Jain's index": "0.900",
        }
    ]


def test_files(groups: list[Seeds], tmp_path: Path) -> None:
    comparison = compare(groups, target=0.6, per_client=False)
    rows = list(csv.DictReader(io.StringIO(to_csv(comparison))))
    last = next(row for row in rows if row["quantity"] == "accuracy_last")
    assert (last["group"], last["seeds"], float(last["mean"])) == ("fedavg", "3", pytest.approx(0.5))
    missed = next(row for row in rows if row["quantity"] == "round_to_target")
    assert (missed["seeds"], missed["of_seeds"], missed["mean"]) == ("2", "3", "")
    text = to_latex(tables_of(comparison))
    assert "\\toprule" in text and r"50.0 $\pm$ 24.8 {[}40.0, 60.0{]}" in text and "accuracy, \\%" in text
    assert escaped("fd-2: -1.5 [-3, +1]") == "fd-2: $-$1.5 {[}$-$3, +1{]}"
    assert "| fedavg | 3 | 2 | 50.0 ± 24.8 [40.0, 60.0] |" in to_markdown(tables_of(comparison))
    assert write_comparison(comparison, tmp_path / "new" / "table.md").read_text() == to_markdown(tables_of(comparison))
    with pytest.raises(InputError, match=r"is one of \.csv, \.md, \.tex"):
        write_comparison(comparison, tmp_path / "table.xlsx")
    (tmp_path / "folder.csv").mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=rf"cannot write {tmp_path / 'folder.csv'}: Is a directory"):
        write_comparison(comparison, tmp_path / "folder.csv")
    assert sorted(tmp_path.iterdir()) == before  # nothing half-written lies beside it
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        write_comparison(comparison, tmp_path / "file" / "table.csv")
