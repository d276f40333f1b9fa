"""What a user says of a data set in which a thing cannot be found by itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, final

from fedkd.base.errors import InputError


@final
@dataclass(frozen=True)
class Options:
    """The keys of ``[data]`` that say how a data set is read; empty where it is found by looking."""

    layout: str = ""
    channels: str = ""
    image_column: str = ""
    feature_columns: tuple[str, ...] = ()
    label_column: str = ""
    client_column: str = ""
    missing: str = ""
    tokens: str = ""
    length: int = 0

    def refuse_but(self, *taken: str, what: str) -> None:
        """Raise InputError for the first that is set and is none of the taken: ``what`` has no use for it."""
        given: dict[str, Any] = asdict(self)
        for key in (key for key, value in given.items() if value and key not in ("channels", *taken)):
            raise InputError(f"data.{key} = {given[key]!r}: {what}: leave it out")
