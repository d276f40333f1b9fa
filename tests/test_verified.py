"""docs/verified.md: what becomes of sources that can be checked by hand, what is said of bad ones, and that it is current."""

from __future__ import annotations

import doctest
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fedkd.base.errors import InputError

ROOT = Path(__file__).parents[1]
MODULES = ("evidence", "gains", "recomputed", "verified")
ROWS = {"fedproto": "fedproto", "fd": "fd", "kd_loss": "kd_loss", "kd": "kd_loss"}
SAME = {"name": "kd", "code": "some/code", "commit": "0123456789", "where": "kd.py: KD", "what": "", "seeds": [0, 1]}
SAME |= {"there": [1.0, 3.0], "here": [1.0, 3.0], "difference": 2e-16, "gradient_difference": 3e-16}
RUN = """
[runs.mine]
file = "mine.jsonl"
page = "results/mine.md"
of = "method"
key = "accuracy"
base = { method = "local" }
over = "local"
setting = "ten digits"
"""
SAID = """
[[said]]
name = "fd"
run = "mine"
source = "its paper"
link = "https://example.org"
gains = [3.0, 4.0]
over = "local"
setting = "all digits"
"""


@pytest.fixture(scope="module")
def docs() -> Iterator[dict[str, ModuleType]]:
    """The modules beside the pages."""
    sys.path.insert(0, str(ROOT / "docs"))
    yield {name: __import__(name) for name in MODULES}
    sys.path.remove(str(ROOT / "docs"))


def written(file: Path, *lines: dict[str, Any]) -> Path:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_the_examples_of_the_modules_run(docs: dict[str, ModuleType]) -> None:
    for module in docs.values():
        assert doctest.testmod(module).failed == 0, module
    assert doctest.testmod(docs["evidence"]).attempted > 3


def test_numbers_of_the_same_tensors_are_the_same_or_explained_or_neither(docs: dict[str, ModuleType], tmp_path: Path) -> None:
    far = {**SAME, "here": [1.5, 4.5], "difference": 0.33}
    file = written(tmp_path / "official.jsonl", SAME, far, {**far, "because": "it sums"}, {**SAME, "gradient_difference": 0.1})
    same, other, explained, steep = docs["evidence"].of_official_code(file, ROWS)
    assert same.name == "kd_loss" and same.there == same.here == "2 ± 13 (2 seeds)"
    assert same.beside == "[some/code](https://github.com/some/code) at 0123456, `kd.py: KD`"
    assert same.verdict == "verified: largest difference of values 2e-16, gradients 3e-16"
    assert other.verdict == "not verified: differs (values 3e-01, gradients 3e-16), not explained"
    assert explained.verdict == "differs because it sums (values 3e-01, gradients 3e-16)"
    assert steep.verdict == "not verified: differs (values 2e-16, gradients 1e-01), not explained"


def test_accuracies_side_by_side_by_hand(docs: dict[str, ModuleType], tmp_path: Path) -> None:
    """FedProto: 80, 82 there and 81, 81 here are 0 apart on average, FD 70, 72 and 74, 76.2 are 4.1 apart."""
    pairs = [("FedProto", "rival", (0.80, 0.82)), ("FedProto", "fedkd", (0.81, 0.81)), ("FD", "rival", (0.70, 0.72))]
    pairs += [("FD", "fedkd", (0.74, 0.762)), ("FD", "fedkd, nudged", (0.1, 0.1)), ("FedMagic", "rival", (0.5, 0.6))]
    lines = [
        {"method": method, "code": code, "seed": seed, "accuracy": value, "seconds": 1.0}
        for method, code, values in pairs
        for seed, value in enumerate(values)
    ]
    file = written(tmp_path / "side_by_side.jsonl", *lines)
    (proto, fd), strange = docs["evidence"].side_by_side(file, ROWS, {})
    assert strange == ["FedMagic"]
    assert (proto.name, proto.there, proto.here) == ("fedproto", "81.0 ± 12.7 % (2 seeds)", "81.0 ± 0.0 % (2 seeds)")
    assert proto.verdict == "not verified: +0.0 ± 12.7 points apart, an interval too wide to tell"
    assert proto.beside == "rival, side by side: [side_by_side.jsonl](../benchmarks/results/side_by_side.jsonl)"
    assert fd.verdict == "not verified: +4.1 ± 1.3 points apart, not explained"
    (_, fd), _ = docs["evidence"].side_by_side(file, ROWS, {"side_by_side.jsonl FD rival": "of its mean"})
    assert fd.verdict == "differs because of its mean (+4.1 ± 1.3 points apart)"


def test_one_method_under_two_names_is_compared(docs: dict[str, ModuleType], tmp_path: Path) -> None:
    """What the rival calls "magic" is FD here: 70, 72 there and 70, 72 here."""
    lines = [
        {"method": method, "code": code, "seed": seed, "accuracy": value}
        for method, code in (("magic", "rival"), ("FD", "fedkd"))
        for seed, value in enumerate((0.70, 0.72))
    ]
    file = written(tmp_path / "side_by_side.jsonl", *lines)
    (fd,), strange = docs["evidence"].side_by_side(file, ROWS, {}, {"side_by_side.jsonl magic rival": "FD"})
    assert not strange and (fd.name, fd.verdict) == ("fd", "verified: +0.0 ± 0.0 points apart")


def test_what_was_run_in_other_settings_is_another_comparison(docs: dict[str, ModuleType], tmp_path: Path) -> None:
    """What belongs to a code alone is no other setting; a rival's run beside which nothing was run has no row."""
    lines = [
        {"method": "kd, momentum", "code": code, "seed": seed, "accuracy": accuracy, "setting": {"name": name, **own}}
        for name, accuracy in (("short", 0.5), ("long", 0.9))
        for code, own in (("fedkd", {"strategy": {"name": "dml"}}), ("rival", {"commit": "0123"}))
        for seed in (0, 1)
    ]
    lines += [{"method": "kd, warm-up", "code": "rival", "seed": seed, "accuracy": 0.1} for seed in (0, 1)]
    found, strange = docs["evidence"].side_by_side(written(tmp_path / "side_by_side.jsonl", *lines), ROWS, {})
    assert not strange and [each.there for each in found] == ["50.0 ± 0.0 % (2 seeds)", "90.0 ± 0.0 % (2 seeds)"]
    assert [each.name for each in found] == ["kd_loss", "kd_loss"]
    assert found[0].beside.startswith("rival, side by side: momentum, short, [")
    assert {each.verdict for each in found} == {"verified: +0.0 ± 0.0 points apart"}


def lines_of_runs() -> list[dict[str, Any]]:
    """Three seeds: FD has 1, 2 and 3 points over local; one seed of a longer run is another setting."""
    local = [{"method": "local", "seed": seed, "accuracy": 0.5} for seed in range(3)]
    taught = [{"method": "fd", "seed": seed, "accuracy": 0.51 + 0.01 * seed} for seed in range(3)]
    return [*local, *taught, {"method": "fd", "seed": 0, "accuracy": 0.9, "setting": "longer"}]


def test_gains_here_beside_what_others_say(docs: dict[str, ModuleType], tmp_path: Path) -> None:
    written(tmp_path / "mine.jsonl", *lines_of_runs())
    declared = tmp_path / "verified.toml"
    declared.write_text(RUN)
    (alone,) = docs["gains"].of_gains(declared, tmp_path, ROWS)
    assert (alone.beside, alone.here) == ("points over local, [ten digits](results/mine.md)", "+2.0 ± 2.5 (3 seeds)")
    assert alone.verdict == "not verified: gains nothing beyond the interval here; nothing to hold it against"
    declared.write_text(RUN + SAID)
    (beside,) = docs["gains"].of_gains(declared, tmp_path, ROWS)
    assert beside.there == "+3.5 ± 6.4 (2 settings)"
    assert (beside.name, beside.here) == ("fd", alone.here)
    assert beside.beside == (
        "points over local, [its paper](https://example.org): all digits; here over local, [ten digits](results/mine.md)"
    )
    declared.write_text(RUN + SAID.replace("gains = [3.0, 4.0]", "range = [1.5, 5.5]"))
    (beside,) = docs["gains"].of_gains(declared, tmp_path, ROWS)
    assert beside.there == "+1.5 to +5.5"
    assert beside.verdict == (
        "not verified: gains there, gains nothing beyond the interval here, in another and smaller setting"
    )


def test_seeds_that_were_drawn_to_judge_by_are_judged_alone(docs: dict[str, ModuleType], tmp_path: Path) -> None:
    """Of 1, 2 and 3 points the last two."""
    written(tmp_path / "mine.jsonl", *lines_of_runs())
    declared = tmp_path / "verified.toml"
    declared.write_text(RUN.replace("[runs.mine]\n", "[runs.mine]\nseeds = [1, 2]\n"))
    (alone,) = docs["gains"].of_gains(declared, tmp_path, ROWS)
    assert alone.here == "+2.5 ± 6.4 (2 seeds)"


def test_what_the_page_is_made_of_must_be_there(docs: dict[str, ModuleType], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"verified\.toml: no such file, which says what is held beside what"):
        docs["gains"].declared(tmp_path / "verified.toml")
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    (results / "against_official.jsonl").write_text("")
    with pytest.raises(InputError, match=r"side_by_side.*\.jsonl: no such file of results, of which verified\.toml speaks"):
        docs["verified"].verified_page(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("[runs.mine]", "[runs.mine"), "verified.toml: no TOML"),
        (('key = "accuracy"\n', ""), "verified.toml, runs.mine: no 'key': add it"),
        (('name = "fd"', 'name = "fdd"'), r"verified.toml, \[\[said\]\] 1: 'fdd' is no strategy, .*did you mean 'fd'"),
        (('run = "mine"', 'run = "mien"'), r"verified.toml, \[\[said\]\] 1: no run 'mien': did you mean 'mine'"),
        (("gains = [3.0, 4.0]\n", ""), "give one of gains and range"),
        (('link = "https://example.org"\n', ""), r"\[\[said\]\] 1: no 'link'"),
        (('{ method = "local" }', '{ method = "alone" }'), "no line of mine.jsonl is its base"),
        (('file = "mine.jsonl"', 'file = "yours.jsonl"'), "yours.jsonl: no such file of results"),
    ],
)
def test_a_bad_declaration_is_one_line_that_says_where(
    docs: dict[str, ModuleType], tmp_path: Path, change: tuple[str, str], says: str
) -> None:
    written(tmp_path / "mine.jsonl", *lines_of_runs())
    declared = tmp_path / "verified.toml"
    assert change[0] in RUN + SAID
    declared.write_text((RUN + SAID).replace(*change))
    with pytest.raises(InputError, match=says) as error:
        docs["gains"].of_gains(declared, tmp_path, ROWS)
    assert "\n" not in str(error.value)


def test_a_bad_file_of_results_is_one_line_that_says_where(docs: dict[str, ModuleType], tmp_path: Path) -> None:
    file = tmp_path / "official.jsonl"
    for text, says in (
        (json.dumps(SAME) + '\n{"name": "kd", "co', "line 2: no JSON"),
        (json.dumps({key: value for key, value in SAME.items() if key != "commit"}), "line 1: no 'commit'"),
        (json.dumps({**SAME, "name": "kd_los"}), "'kd_los' is no strategy, .*did you mean 'kd_loss'"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=says) as error:
            docs["evidence"].of_official_code(file, ROWS)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("mark", "body", "says"),
    [
        ('recomputed("fd", by="hand")', "assert 1 + 1 == 2", ""),
        ('recomputed("fd", "kd_loss", by="formula")', "torch.testing.assert_close(1, 1)", ""),
        ('recomputed("fdd", by="hand")', "assert True", "test_fd.py, line 1: recomputed names 'fdd'.* did you mean 'fd'"),
        ('recomputed("fd")', "assert True", 'line 1: write recomputed\\("NAME", by="KIND"\\); KIND is one of formula'),
        ('recomputed("fd", by="luck")', "assert True", "KIND is one of formula, hand, code"),
        ('recomputed("fd", by="hand")', "print(1 + 1)", "test_two_and_two asserts nothing"),
    ],
)
def test_marks_are_found_and_must_be_of_tests_that_assert(
    docs: dict[str, ModuleType], tmp_path: Path, mark: str, body: str, says: str
) -> None:
    (tmp_path / "test_fd.py").write_text(f"@pytest.mark.{mark}\ndef test_two_and_two():\n    {body}\n")
    if says:
        with pytest.raises(InputError, match=says):
            docs["recomputed"].recomputed(tmp_path, ROWS)
    else:
        found = docs["recomputed"].recomputed(tmp_path, ROWS)
        assert [each.name for each in found] == (["fd", "kd_loss"] if "kd_loss" in mark else ["fd"])
        assert found[0].says == "two and two"


def test_a_function_is_verified_by_its_tests_and_a_strategy_is_not(docs: dict[str, ModuleType]) -> None:
    test = docs["recomputed"].Recomputed("fd", "hand", ROOT / "tests" / "test_fd.py", 1, "two and two")
    rows_of = docs["verified"].rows_of
    assert rows_of("fd", [], [test], whole=True) == [
        ("`fd`", "verified by tests", "[hand](../tests/test_fd.py)", "its definition, in tests", "", "")
    ]
    assert rows_of("fd", [], [test], whole=False)[0][1] == rows_of("fd", [], [], whole=True)[0][1] == "not verified"


def test_everything_that_has_a_name_has_a_row(docs: dict[str, ModuleType]) -> None:
    from fedkd.experiment.registry import strategies
    from fedkd.losses import __all__ as losses
    from fedkd.targets import RULES

    groups = docs["verified"].rows()
    assert groups["Strategies"] == list(strategies())
    assert set(losses) <= set(groups["Losses, and what goes into them"])
    assert set(RULES) <= set(groups["Targets of several teachers"])
    assert docs["verified"].names()["kd"] == "kd_loss"


@pytest.mark.slow
def test_the_page_is_what_its_command_writes(docs: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["verified.py", "--check"])
    with pytest.raises(SystemExit) as end:
        docs["verified"].main()
    assert end.value.code == 0, "run python docs/verified.py"


def test_a_bad_source_ends_the_command_with_its_line(
    docs: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def bad() -> str:
        raise InputError("verified.toml: no TOML")

    monkeypatch.setattr(docs["verified"], "verified_page", bad)
    monkeypatch.setattr(sys, "argv", ["verified.py"])
    with pytest.raises(SystemExit) as end:
        docs["verified"].main()
    assert (end.value.code, capsys.readouterr().err) == (2, "verified.toml: no TOML\n")
