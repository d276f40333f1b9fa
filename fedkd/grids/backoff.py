"""How long Flower waits until it asks again for a part of a message that has been announced and is still on its way."""

from __future__ import annotations

from flwr.supercore.inflatable.inflatable_utils import pull_objects

#: In seconds; it doubles with each try.
FIRST_BACKOFF = 0.05


def shorten_first_backoff() -> None:
    """In this process, ask again after a twentieth of a second at first, where Flower waits for one.

    A message is announced before its arrays are there. Who looks for messages often nearly always comes too early, and would
    wait longer than who looks every three seconds. The tries, the longest wait and the doubling stay Flower's.
    """
    defaults = pull_objects.__kwdefaults__ or {}
    if "initial_backoff" in defaults:  # else a release that does this otherwise
        defaults["initial_backoff"] = FIRST_BACKOFF
