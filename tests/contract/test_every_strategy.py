"""What every strategy owes, shipped or added: found by looking, so a new file in strategies/ is tested without being named."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from grids.forgetful import ForgetfulGrid

from fedkd import Experiment, History, Strategy, simulate
from fedkd.experiment.registry import build, strategies
from fedkd.grids import JobGrid
from fedkd.results.row_keys import find_entry
from fedkd.testing.check import checks_of
from fedkd.testing.kinds_of_samples import LITTLE
from fedkd.testing.strategies import CHECKS, comes_back_from_its_name_and_numbers
from fedkd.testing.strategies import is_a_final_frozen_dataclass_that_says_what_it_does as is_a_final_frozen_dataclass
from fedkd.testing.strategy_kinds import works_with, works_with_samples_of_every_kind
from fedkd.testing.strategy_results import every_part_of_the_loss_has_a_gradient
from fedkd.testing.trial import Trial, numbers

NAMES = sorted(strategies())
#: The checks of `make check`; the others look at more runs.
QUICK = (is_a_final_frozen_dataclass, comes_back_from_its_name_and_numbers)
ELSEWHERE = (every_part_of_the_loss_has_a_gradient, works_with_samples_of_every_kind)
HERE = [check for check in CHECKS if check not in ELSEWHERE]


@cache
def trial(name: str) -> Trial:
    """A strategy and its runs, made once for all that is held against them."""
    return Trial(strategies()[name], {})


def small(name: str, **changes: Any) -> Experiment:
    """A run of seconds: 4 clients, 160 digits, two rounds, and whatever the strategy needs."""
    return trial(name).experiment(**changes)


def finished(name: str) -> History:
    """The usual run in this process."""
    return trial(name).history


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("check", [pytest.param(c, marks=() if c in QUICK else pytest.mark.slow) for c in HERE])
def test_keeps_what_fedkd_testing_checks(name: str, check: Callable[[Trial], None]) -> None:
    for bound in checks_of(name, (check,), trial(name)):
        bound()


#: What a strategy needs that the samples of a kind, or their net, have not.
REFUSED = {
    ("byot", "vectors"): "no feature maps",
    ("byot", "texts by name"): "no feature maps",
    ("dcm", "vectors"): "0 feature maps",
    **{
        (name, kind): "makes samples of real numbers"
        for name in ("dense", "co_boosting", "dosfl", "fedftg")
        for kind in ("texts", "texts by name")
    },
    ("ffsd", "vectors"): "0 feature maps",
    ("afd", "vectors"): "0 feature maps",
    ("amln", "vectors"): "0 feature maps",
    ("mutualnet", "texts by name"): "mixes the channels",
    ("ffl", "vectors"): "0 feature maps",
    ("selective_fd", "texts"): "measures distances between samples",
    ("selective_fd", "texts by name"): "measures distances between samples",
    **{("sskd", kind): "SSKD needs images" for kind in LITTLE},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", LITTLE)
def test_works_with_samples_that_are_no_images(name: str, kind: str) -> None:
    said = works_with(trial(name), kind)
    assert REFUSED[name, kind] in said and "\n" not in said if (name, kind) in REFUSED else said == ""


@pytest.mark.parametrize("name", NAMES)
def test_says_in_which_paper_it_is_and_what_travels(name: str) -> None:
    text = inspect.getdoc(strategies()[name]) or ""
    assert "Paper:" in text
    assert "What travels:" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_reports_plausible_numbers(name: str) -> None:
    for row in finished(name).metrics[1:]:
        assert row["loss"] > 0
        assert 0 <= row.get("accuracy", 0.0) <= 1
    assert "accuracy" in finished(name).metrics[-1]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_key_of_its_rows_is_in_the_list_of_keys(name: str) -> None:
    history = finished(name)
    keys = {key for row in (*history.metrics, *history.clients) for key in row}
    assert {key for key in keys if find_entry(key) is None} == set(), "describe it in fedkd/results/row_keys.py"


@pytest.mark.parametrize("name", [name for name in NAMES if strategies()[name].renamed])
def test_fields_written_down_by_an_earlier_name_are_read(name: str) -> None:
    for earlier, now in strategies()[name].renamed.items():
        assert getattr(build({"name": name, earlier: 7}), now) == 7


@pytest.mark.parametrize("name", NAMES)
def test_overrides_nothing_that_its_family_does_alike_for_all(name: str) -> None:
    """Families are the abstract classes of fedkd.methods: only what is abstract there is for a strategy to say."""
    cls = strategies()[name]
    for family in [base for base in cls.__mro__ if base.__module__.startswith("fedkd.methods.")]:
        assert inspect.isabstract(family)
        methods = {key for key, value in vars(family).items() if inspect.isfunction(value) or isinstance(value, property)}
        assert (methods - family.__abstractmethods__) & vars(cls).keys() <= {key for key in methods if key.startswith("__")}


@cache
def of_every_kind() -> list[str]:
    """A strategy for every combination of what makes a difference to an engine.

    Of all others the grid of ``goes_on_from_its_memory_alone`` forgets as much, in one process.
    """
    found: dict[object, str] = {}
    for name in NAMES:
        cls = strategies()[name]
        several = cls.exchanges_per_round is not Strategy.exchanges_per_round
        starts = cls.first_broadcast is not Strategy.first_broadcast
        needs = dataclasses.replace(cls.needs, uses=None)
        found.setdefault((needs, cls.compares_clients, cls.outlives_its_round, several, starts), name)
    return list(found.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", of_every_kind())
def test_same_seed_same_metrics_on_a_grid_that_forgets(name: str) -> None:
    """Nothing but memory and live values may carry over; this grid rebuilds each Context in another process."""
    assert numbers(simulate(small(name), ForgetfulGrid())) == numbers(finished(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", of_every_kind())
def test_same_seed_same_metrics_on_ray(name: str, hired: Callable[[], JobGrid]) -> None:
    assert numbers(simulate(small(name), hired())) == numbers(finished(name))
