"""What was there before a run is no garbage of it."""

from __future__ import annotations

import gc

from fedkd.base.garbage import old_objects_kept, young_objects_kept


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
