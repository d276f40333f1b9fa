"""An engine of Ray is begun before a run needs it, once, and is closed whatever happens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import pytest

from fedkd import Experiment
from fedkd.engine import begun
from fedkd.grids import InProcessGrid


class Noted(InProcessGrid):
    """Notes what it is told."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        self.settings, self.told = settings, list[str]()

    def begin(self, imports: Sequence[str] = ()) -> Self:
        self.told.append(f"begin with {imports[0]}")
        return self

    def close(self) -> None:
        self.told.append("close")
        super().close()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Noted]:
    """The grids that are made by name."""
    grids: list[Noted] = []

    def make(engine: Any, **settings: Any) -> Any:
        if not isinstance(engine, str):
            return engine
        grids.append(Noted(settings))
        return grids[-1]

    monkeypatch.setattr(begun, "make_grid", make)
    return grids


def test_a_section_on_ray_is_begun_and_closed_though_the_run_fails(made: list[Noted]) -> None:
    with pytest.raises(KeyError), begun.begun_early({"name": "ray", "actors": "3"}) as grids:
        assert grids == {Experiment(engine={"name": "ray", "actors": 3}).engine: made[0]}
        assert made[0].told == ["begin with torch"]
        raise KeyError
    assert made[0].told == ["begin with torch", "close"]
    assert made[0].settings["actors"] == 3


@pytest.mark.parametrize("section", [{}, {"name": "in-process"}, {"name": "rey"}, {"name": "ray", "actors": "no"}])
def test_nothing_is_begun_for_another_engine_or_a_section_that_is_wrong(section: dict[str, str], made: list[Noted]) -> None:
    with begun.begun_early(section) as grids:
        assert grids == {}
    assert made == []


def test_a_grid_of_the_callers_is_left_to_the_caller(made: list[Noted]) -> None:
    mine = Noted({})
    with begun.begun(mine, Experiment()) as grid:
        assert grid is mine
    assert mine.told == []
    with begun.begun("ray", Experiment()):
        assert made[0].told == ["begin with torch"]
    assert made[0].told == ["begin with torch", "close"]
