"""What was there before a run is no garbage of it, and what is loaded is not looked through meanwhile."""

from __future__ import annotations

import gc
from contextlib import suppress

from fedkd.base.garbage import collector_away, old_objects_kept, young_objects_kept


def is_looked_at(thing: object) -> bool:
    """Whether the collector's lists hold this very object."""
    return any(thing is each for each in gc.get_objects())


def test_old_objects_are_passed_over_inside_the_block_and_looked_at_again_after_it() -> None:
    old = [object()]
    with old_objects_kept():
        assert not is_looked_at(old)
        new = [object()]
        with old_objects_kept():
            assert is_looked_at(new), "a block within a block hides nothing more"
        assert not is_looked_at(old), "the inner block's end is not the outer one's"
    assert gc.get_freeze_count() == 0
    assert is_looked_at(old)


def test_young_objects_are_looked_at_more_seldom_inside_the_block() -> None:
    before = gc.get_threshold()
    with young_objects_kept():
        assert gc.get_threshold()[0] > 10 * before[0]
        assert gc.isenabled(), "what is left behind by the thousand goes all the same"
    assert gc.get_threshold() == before


def test_the_collector_is_away_in_the_block_and_back_after_it_though_the_block_fails() -> None:
    with suppress(KeyError), collector_away():
        assert not gc.isenabled()
        with collector_away():
            pass
        assert not gc.isenabled(), "the inner block's end is not the outer one's"
        raise KeyError
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_what_was_made_while_the_collector_was_away_counts_as_old() -> None:
    with collector_away():
        made = [object()]
    assert any(made is each for each in gc.get_objects(generation=2))


def test_who_has_no_collector_is_given_none() -> None:
    gc.disable()
    try:
        with collector_away():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
