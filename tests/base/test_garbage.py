"""What was there before a run is no garbage of it."""

from __future__ import annotations

import gc

from fedkd.base.garbage import old_objects_kept


def test_old_objects_are_passed_over_inside_the_block_and_looked_at_again_after_it() -> None:
    held = [object()]
    with old_objects_kept():
        frozen = gc.get_freeze_count()
        assert not any(held is each for each in gc.get_objects())
        with old_objects_kept():
            assert gc.get_freeze_count() == frozen
        assert gc.get_freeze_count() == frozen > 0
    assert gc.get_freeze_count() == 0
    assert any(held is each for each in gc.get_objects())
