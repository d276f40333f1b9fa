"""What a user says of a data set in which a thing cannot be found by itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, final

from fedkd.base.errors import InputError

#: A set without a test split is read with a fifth of it as one; of the data of a client of its own, nothing is taken away.
HELD_OUT = 0.2


@final
@dataclass(frozen=True)
class Options:
    """How a data set is read: keys of ``[data]``, empty where it is found by looking, and ``held_out``, which is no key."""

    layout: str = ""
    channels: str = ""
    image_column: str = ""
    feature_columns: tuple[str, ...] = ()
    label_column: str = ""
    client_column: str = ""
    missing: str = ""
    tokens: str = ""
    length: int = 0
    held_out: float = HELD_OUT  # share of the labelled samples that become the test split of a set without one

    def refuse_but(self, *taken: str, what: str) -> None:
        """Raise InputError for the first that is set and is none of the taken: ``what`` has no use for it."""
        given: dict[str, Any] = asdict(self)
        for key in (key for key, value in given.items() if value and key not in ("channels", "held_out", *taken)):
            raise InputError(f"data.{key} = {given[key]!r}: {what}: leave it out")
