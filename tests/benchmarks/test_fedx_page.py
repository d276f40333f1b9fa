"""What benchmarks/fedx_page.py says of runs with FedX and without, worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from fedx_page import Pair


def line(seed: int, last: float, uniformity: float, seconds: float) -> dict[str, Any]:
    """One run: evaluated before round 1 and after the last."""
    return {"seed": seed, "last": last, "curves": {"uniformity": [-0.2, uniformity]}, "seconds": seconds, "bytes": 10}


def pair(*gains: float, uniformity: float = -1.0, changed: str = "plain") -> Pair:
    """SimCLR has 70 and 72 % and a uniformity of -1.5, FedX so many points more, in twice the time."""
    from fedx_page import Pair

    base = [line(seed, 0.70 + 0.02 * seed, -1.5, 30.0) for seed in range(len(gains))]
    mine = [line(seed, base[seed]["last"] + gain / 100, uniformity, 60.0) for seed, gain in enumerate(gains)]
    return Pair("Fashion-MNIST, CNN", 8, 2, changed, mine, base)


def test_a_row_has_the_gain_seed_by_seed_and_what_it_costs() -> None:
    """Gains of 1 and 3 are 2 in the mean; half a 95 % interval of two is 12.71 * 1.414 / 1.414."""
    both = pair(1.0, 3.0)
    assert both.gain == pytest.approx(2.0) and both.spread == pytest.approx(-0.5)
    *named, seeds, base, fedx, gain, uniformity, seconds, sent = both.row()
    assert named == ["Fashion-MNIST, CNN", "8 x 2", "plain"] and seeds == "2"
    assert base.startswith("71.0") and fedx.startswith("73.0")
    assert (gain, uniformity, seconds, sent) == ("+2.0 ± 12.7", "-1.50 / -1.00", "2.0 x", "1.0 x")


def test_the_official_code_has_no_uniformity_and_no_bytes() -> None:
    from fedx_page import Pair, explain

    lines = [{"seed": 0, "last": 0.5, "curves": {"accuracy": [0.5]}, "seconds": 3.0}]
    official = Pair("CIFAR-10, CNN", 8, 2, "official code", lines, lines)
    assert official.row()[-4:] == ["+0.0", "", "1.0 x", ""]
    assert "over 2 settings" in explain([official, pair(1.0), pair(2.0, uniformity=-2.0)])


def test_who_spreads_more_and_gains_more_ranks_alike() -> None:
    from fedx_page import explain

    assert "rank correlation 1.00" in explain(
        [pair(-2.0, uniformity=-0.5), pair(0.0, uniformity=-1.2), pair(1.0, uniformity=-1.6)]
    )


def test_the_page_gets_the_table_between_its_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fedx_page

    page, figure = tmp_path / "fedx.md", tmp_path / "fedx.png"
    page.write_text("before\n<!-- where it turns -->\nold\n<!-- end -->\nbetween\n<!-- spread -->\nold\n<!-- end -->\nafter\n")
    monkeypatch.setattr(fedx_page, "PAGE", page)
    monkeypatch.setattr(fedx_page, "FIGURE", figure)
    fedx_page.write_page([pair(1.0), pair(-1.0, uniformity=-0.5, changed="views of FedX")])
    text = page.read_text()
    assert (
        "old" not in text and text.startswith("before\n<!-- where it turns -->\n| data and net |") and text.endswith("after\n")
    )
    assert figure.exists()
