"""How far a round is: told as replies come, written beside a run's rows, and read by who watches it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

from fedkd.results.statistics import duration

FILE = "progress.json"
#: Seconds from one writing of it to the next.
PAUSE = 1.0


@final
@dataclass(frozen=True)
class Progress:
    """How far one exchange of a round is.

    Args:
        round: of the run; 0 is the evaluation before training.
        phase: ``"training"`` or ``"evaluation"``.
        done: clients that have answered.
        asked: clients that were asked.
        seconds: since they were asked.
    """

    round: int
    phase: str
    done: int
    asked: int
    seconds: float

    @property
    def to_go(self) -> float | None:
        """Seconds until all have answered, at the pace so far; None before the first answer.

        >>> Progress(1, "training", done=2, asked=10, seconds=3.0).to_go
        12.0
        """
        return self.seconds / self.done * (self.asked - self.done) if self.done else None

    def in_words(self) -> str:
        """Phase, clients and time to go.

        >>> Progress(1, "training", done=2, asked=10, seconds=3.0).in_words()
        'training: 2 of 10 clients, 12.0 s to go'
        """
        text = f"{self.phase}: {self.done} of {self.asked} clients"
        return f"{text}, {duration(self.to_go)} to go" if self.to_go and self.done < self.asked else text


OnProgress = Callable[[Progress], None]


@final
class ProgressFile:
    """``progress.json`` of a run's directory, there as long as a round goes on. A full disk is no matter: rows say it."""

    def __init__(self, path: Path) -> None:
        self._file, self._next = path / FILE, time.monotonic() + PAUSE

    def write(self, progress: Progress) -> None:
        """Replace it, at most once a second."""
        if time.monotonic() < self._next or not self._file.parent.is_dir():
            return
        self._next = time.monotonic() + PAUSE
        beside = self._file.with_name(f".{FILE}.writing")
        try:
            beside.write_text(json.dumps(asdict(progress)) + "\n", encoding="utf-8")
            beside.replace(self._file)
        except OSError:
            beside.unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete it: the run goes on no longer."""
        self._file.unlink(missing_ok=True)


def read_progress(path: Path) -> Progress | None:
    """What ``progress.json`` of a run's directory says; None where there is none, or none that can be read."""
    try:
        return Progress(**json.loads((path / FILE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
