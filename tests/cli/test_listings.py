"""fedkd strategies, keys, --version: what they list, and that it fits the terminal."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import fedkd
from fedkd import cli
from fedkd.experiment.keys import experiment_keys, strategy_keys
from fedkd.experiment.registry import load, names


def output_of(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", line.split())
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def test_the_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert output_of("fedkd --version", monkeypatch, capsys) == (0, f"fedkd {fedkd.__version__}\n", "")


@pytest.mark.parametrize("line", ["fedkd strategies", "fedkd keys"])
def test_a_list_fits_a_hundred_columns(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = output_of(line, monkeypatch, capsys)
    assert code == 0 and max(map(len, out.splitlines())) <= 100
    wanted = names() if "strategies" in line else [key.path for key in experiment_keys()]
    assert set(wanted) <= {row.split(" ")[0] for row in out.splitlines()}


@pytest.mark.parametrize("name", names())
def test_one_strategy_is_shown_whole(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = output_of(f"fedkd strategies {name}", monkeypatch, capsys)
    cls = load(name)
    lines = [line for line in out.splitlines() if not line.startswith("    ")]  # formulas are as wide as they are
    assert code == 0 and max(map(len, lines)) <= 100
    assert f"paper:  {cls.paper}" in lines or len(cls.paper) > 92
    assert "What travels" in out and all(f"\n{key.name} " in out for key in strategy_keys(cls))


def test_a_section_or_one_key_may_be_asked_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = output_of("fedkd keys faults --json", monkeypatch, capsys)
    assert [row["name"] for row in json.loads(out)] == ["dropout", "straggle", "crash", "nan"]
    _, out, _ = output_of("fedkd keys train.lr --json", monkeypatch, capsys)
    assert [(row["path"], row["default"], row["range"]) for row in json.loads(out)] == [("train.lr", "0.01", "number above 0")]


@pytest.mark.parametrize(
    ("line", "cure"),
    [
        ("fedkd keys tarin", "unknown section 'tarin': did you mean 'train'?"),
        ("fedkd keys strategy", "see `fedkd strategies NAME`"),
        ("fedkd strategies fedvg", "did you mean 'fedavg'?"),
    ],
)
def test_what_is_not_there_is_told_with_a_cure(
    line: str, cure: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = output_of(line, monkeypatch, capsys)
    assert (code, out) == (2, "") and cure in err


def test_a_strategy_of_ones_own_is_shown_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shown_method.py").write_text(
        "from dataclasses import dataclass\nfrom fedkd.strategies.fedprox import FedProx\nfrom fedkd import Strategy\n"
        '@dataclass(frozen=True)\nclass Mine(Strategy):\n    """My own."""\n    pull: float = 3.0  # how hard\n'
        '    paper, sends = "none", "nothing"\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    code, out, _ = output_of("fedkd strategies shown_method:Mine", monkeypatch, capsys)
    assert code == 0 and "My own." in out and "how hard" in out
