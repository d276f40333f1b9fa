"""What benchmarks/when_helps.py plans, and what it reads out of its lines: gains over a base, and whom it advises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from helps.plan import Cell


def lines(own: Mapping[str, tuple[float, ...]], kinds: tuple[str, ...] = ("images", "signals")) -> dict[Cell, dict[str, float]]:
    """The default condition's lines: of each method the share on clients' own tests, seed by seed; on all classes 0.5."""
    from helps.plan import DEFAULT, Cell

    return {
        Cell(kind, DEFAULT, method, seed): {"own": share, "all": 0.5, "up": 100.0 * len(method), "down": 0.0}
        for kind in kinds
        for method, shares in own.items()
        for seed, share in enumerate(shares)
    }


def test_one_thing_is_varied_at_a_time_and_no_cell_is_run_twice() -> None:
    from helps.plan import DEFAULT, plan

    cells = plan([0, 1])
    assert (
        len(set(cells)) == len(cells) == 2 * 2 * (10 * 9 + 3 * 4 + 5)
    )  # seeds, kinds; all methods, those with public samples, longer runs
    assert all(cell.condition.named().count(",") == 0 for cell in cells)
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)
    assert {cell.condition for cell in cells[:20]} == {DEFAULT}


def test_longer_runs_are_kept_apart_from_the_usual_ones() -> None:
    from helps.plan import DEFAULT, LONGER, Cell
    from helps.readings import by_seed

    found = {Cell("images", DEFAULT, "local", 0): {"own": 0.5}, Cell("images", DEFAULT, "local", 0, LONGER): {"own": 0.6}}
    assert by_seed(found, "images", DEFAULT, "local", "own") == {0: 0.5}
    assert by_seed(found, "images", DEFAULT, "local", "own", LONGER) == {0: 0.6}


def test_other_public_samples_are_run_only_where_they_are_used() -> None:
    from helps.plan import DEFAULT, plan

    noise = [cell.method for cell in plan([0]) if cell.condition == replace(DEFAULT, public_of="noise")]
    assert noise == ["fedmd", "dsfl", "feddf"] * 2


def test_gain_is_taken_seed_by_seed_of_seeds_that_both_have() -> None:
    from helps.readings import gain_of

    found = gain_of({0: 0.52, 1: 0.54, 2: 0.9}, {0: 0.5, 1: 0.5, 3: 0.1})
    assert found is not None
    assert found.each == pytest.approx((2.0, 4.0))
    assert found.mean == pytest.approx(3.0)
    assert found.half == pytest.approx(12.706, abs=1e-3)  # t(0.975, 1) times 2 ** 0.5 / 2 ** 0.5
    assert str(found) == "+3.0 ± 12.7"


@pytest.mark.parametrize(("shares", "claimed"), [((0.6,), False), ((0.6, 0.7), False), ((0.60, 0.61, 0.62), True)])
def test_a_gain_is_claimed_where_its_interval_leaves_out_0_and_never_of_one_seed(
    shares: tuple[float, ...], claimed: bool
) -> None:
    from helps.readings import gain_of

    found = gain_of(dict(enumerate(shares)), dict.fromkeys(range(3), 0.5))
    assert found is not None
    assert found.claimed == claimed


def test_advised_is_the_best_mean_over_kinds_and_named_beside_it_who_is_within_two_points_cheapest_first() -> None:
    from helps.plan import DEFAULT
    from helps.readings import Case, advise

    found = lines({"local": (0.6,), "fedavg": (0.5,), "fedmd": (0.689,), "fd": (0.685,), "fml": (0.7,), "dsfl": (0.67,)})
    advice = advise(found, Case("", DEFAULT, ("local", "fedavg", "fedmd", "fd", "fml", "dsfl")), "own")
    assert advice is not None
    assert (advice.method, advice.near, advice.seeds) == ("fml", ("fd", "fedmd"), 1)
    assert advice.gains["images"].mean == pytest.approx(10.0)  # over local, the better base


def test_who_may_not_be_used_is_not_advised_and_no_base_either() -> None:
    from helps.plan import DEFAULT
    from helps.readings import Case, advise

    found = lines({"local": (0.6, 0.62), "fedavg": (0.9, 0.9), "fd": (0.65,)})
    advice = advise(found, Case("", DEFAULT, ("local", "fd")), "own")
    assert advice is not None
    assert (advice.method, advice.near, advice.seeds) == ("fd", (), 1)  # seed 1 has no fd
    assert advice.gains["signals"].mean == pytest.approx(5.0)


def test_a_condition_at_chance_or_saturated_does_not_count() -> None:
    from helps.plan import DEFAULT
    from helps.readings import CASES, advise, counts, that_do_not_count

    found = lines({"local": (0.96,), "fedavg": (0.5,)}, ("images",)) | lines({"local": (0.2,), "fedavg": (0.5,)}, ("signals",))
    assert counts(found, "images", DEFAULT) is counts(found, "signals", DEFAULT) is False  # 0.2 < 1.5 / 7
    assert counts({}, "images", DEFAULT) is None
    assert that_do_not_count(found) == ["images, default", "signals, default"]
    assert advise(found, CASES[0], "own") is None


def test_a_seed_that_is_not_whole_is_left_out_of_the_page_and_said() -> None:
    from helps.plan import plan
    from helps.readings import of_whole_seeds
    from helps.tables import seeds_said

    cells = plan([0, 1])
    found = {cell: {"own": 0.5, "all": 0.5} for cell in cells if cell.seed == 0 or cell.method == "local"}
    assert {cell.seed for cell in of_whole_seeds(found, cells)} == {0}
    said = "seed 0: all 214, seed 1: 20 of 214. Tables and figures are of the whole seeds. **With one seed nothing is claimed**"
    assert said in seeds_said(found, cells)


def test_tables_say_that_one_seed_claims_nothing_and_stand_between_the_marks(tmp_path: Path) -> None:
    from helps.plan import plan
    from helps.tables import tables, write_page

    found, page = lines({"local": (0.6,), "fedavg": (0.5,), "fd": (0.65,), "fedproto": (0.61,)}), tmp_path / "page.md"
    names = tables(found, plan([0]))
    page.write_text("\n".join(f"<!-- {name} -->\nold\n<!-- end -->" for name in names))
    write_page(page, found, plan([0]))
    text = page.read_text()
    assert "old" not in text
    assert "seed 0: 8 of 214. **With one seed nothing is claimed**" in text
    assert "| no weights, no public samples | `local`; as good: `fd`, `fedproto` | " in text
    assert "| `fd` (+5.0 images, +5.0 signals) | 1 |" in text
    write_page(page, found, plan([0]))
    assert page.read_text() == text


def test_noise_keeps_what_single_numbers_are_like_and_a_watch_worn_otherwise_its_lengths() -> None:
    from helps.data import drawn_apart, worn_otherwise

    samples = torch.arange(24.0).view(4, 3, 2)
    noise = drawn_apart(samples, torch.Generator().manual_seed(0))
    assert torch.equal(noise.sort(dim=0).values, samples)
    assert not torch.equal(noise, samples)
    signal = torch.tensor([[[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]])
    assert worn_otherwise(signal).tolist() == [[[-2.0, -3.0, -1.0, -5.0, -6.0, -4.0]]]


def test_names_in_a_figure_are_moved_apart_and_no_farther_than_needed() -> None:
    from helps.figures import apart

    assert apart([1.0, 1.0, 9.0], 2.0) == [0.0, 2.0, 9.0]
