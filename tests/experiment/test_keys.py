"""The list of keys: every one is explained, beside its model or its field, and what it says is true."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import Annotated

import pytest
from pydantic import TypeAdapter

from fedkd import Experiment, InputError, Positive
from fedkd.data.views import PRESETS
from fedkd.experiment.keys import TOP, experiment_keys, meanings, range_in_words, strategy_keys
from fedkd.experiment.registry import strategies
from fedkd.knowledge.attacks import ATTACKS

KEYS = experiment_keys()


@dataclass(frozen=True)
class Parent:
    weight: Positive = 1.0  # of all


@dataclass(frozen=True)
class Child(Parent):
    steps: int = 2  # in a row
    plain: bool = False
    """Whether. ``plain = true``"""
    silent: bool = False


def test_they_are_those_of_a_written_file() -> None:
    tables = Experiment().to_tables()
    plain = ("strategy", "net_options")
    sections = {name: table for name, table in tables.items() if isinstance(table, dict) and name not in plain}
    written = {name for name in tables if name not in sections}
    written |= {f"{section}.{name}" for section, table in sections.items() for name in table}
    assert {key.path for key in KEYS} == written and len(KEYS) == len(written)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.path)
def test_each_has_a_meaning_and_an_example_that_fits(key) -> None:  # type: ignore[no-untyped-def]
    assert key.meaning.endswith(".") and len(key.meaning) > 20 and key.range and key.default
    model = Experiment if key.section == TOP else Experiment.model_fields[key.section].annotation
    value = tomllib.loads(f"value = {key.example}")["value"]
    field = model.model_fields[key.name]
    if key.name != "strategy":
        kind = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        TypeAdapter(kind, config={"arbitrary_types_allowed": True}).validate_python(value)
    assert key.example != key.default


def test_names_that_a_key_takes_are_all_in_its_meaning() -> None:
    meaning = {key.path: key.meaning for key in KEYS}
    assert all(name in meaning["attack.name"] for name in ATTACKS)
    assert all(name in meaning["data.views"] for name in PRESETS)


@pytest.mark.parametrize("name", strategies())
def test_each_key_of_a_strategy_has_a_comment_beside_it(name: str) -> None:
    assert [key.name for key in strategy_keys(strategies()[name]) if not key.meaning] == []


def test_meanings_of_inherited_fields_count_and_none_is_made_up() -> None:
    assert meanings(Child) == {"weight": ("of all", ""), "steps": ("in a row", ""), "plain": ("Whether.", "true")}


def test_ranges_are_those_that_are_checked() -> None:
    assert range_in_words(Positive) == "number above 0"
    ranges = {key.path: key.range for key in KEYS}
    assert ranges["participation"] == 'number above 0, up to 1 or "async"'
    with pytest.raises(InputError, match="participation"):
        Experiment(participation=0)
