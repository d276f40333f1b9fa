"""How long a program waits until it looks again for something to do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import final

#: In seconds.
SHORTEST = 0.1


@final
class Patience:
    """``sleep`` for ``time.sleep``: a tenth of the time since something last happened, and never more than is asked for.

    So who waits for the next message of a busy run looks often, and who waits for the next run does not; and of a client's
    minutes of training at most a tenth is added by looking too late.

    Args:
        clock: gives seconds.
        wait: takes seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, wait: Callable[[float], None] = time.sleep) -> None:
        self._clock, self._wait = clock, wait
        self.reset()

    def reset(self) -> None:
        """Something has happened."""
        self._since = self._clock()

    def sleep(self, seconds: float) -> None:
        """Wait, at most so many seconds."""
        self._wait(min(seconds, max(SHORTEST, (self._clock() - self._since) / 10)))
