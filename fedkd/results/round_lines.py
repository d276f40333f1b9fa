"""A round in words: one line of text each, as a run goes on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Self, final

from fedkd.results.progress import Progress
from fedkd.results.row_keys import describe_key, with_test_set
from fedkd.results.statistics import duration, size
from fedkd.results.stopping import STOPPED

Row = Mapping[str, Any]
#: Seconds without a line after which a long round says how far it is.
SILENCE = 30.0


class Display(AbstractContextManager["Display"]):
    """Shows a run while it goes on, from when it is entered to when it is left. This one shows nothing."""

    def row(self, row: Row) -> None:
        """A round is over."""

    def progress(self, progress: Progress) -> None:
        """Clients have answered."""

    def __exit__(self, *_: object) -> None:
        """The run is over."""


@final
class PlainLines(Display):
    """One line of text a round, and of a long round one every half a minute."""

    def __init__(self, title: str, rounds: int) -> None:
        self._title, self._rounds, self._times = title, rounds, list[float]()
        self._announced, self._spoke = set[str](), time.monotonic()

    def __enter__(self) -> Self:
        """Print the title."""
        self._print(self._title)
        return self

    def row(self, row: Row) -> None:
        """Print the round's line; before it, whose accuracy the headline is, each once."""
        if (whose := str(row.get("accuracy_of", ""))) and whose not in self._announced:
            print(f"accuracy: {with_test_set(whose)}", flush=True)
            self._announced.add(whose)
        cells = describe(row)
        text = "  ".join(f"{name} {value}" for name, value in cells.items() if value and name != "round")
        to_go = "" if row.get(STOPPED) else remaining(self._times, row, self._rounds)
        self._print(f"round {row['round']}/{self._rounds}  {text}{to_go}")
        if row.get(STOPPED):
            self._print(f"stopped after round {row['round']} of {self._rounds}: {row[STOPPED]}")

    def progress(self, progress: Progress) -> None:
        """Print how far the round is, if nothing was printed for a while."""
        if time.monotonic() - self._spoke >= SILENCE and progress.done < progress.asked:
            self._print(f"round {progress.round}/{self._rounds}  {progress.in_words()}")

    def _print(self, text: str) -> None:
        print(text, flush=True)
        self._spoke = time.monotonic()


def describe(row: Row) -> dict[str, str]:
    """One row in words; empty where the round has no such number.

    >>> describe({"round": 1, "accuracy": 0.5, "loss": 0.25, "bytes_up": 2000, "seconds": 1.25, "clients_ok": 9})["up"]
    '2.0 kB'
    >>> describe({"round": 1, "bytes_up": 2000, "coded_bytes_up": 500})["up"]
    '500 B (raw 2.0 kB)'
    """
    name = {key: describe_key(key).short for key in ("round", "accuracy", "client_accuracy", "loss", "seconds")}
    cells = {
        name["accuracy"]: share(row, "accuracy"),
        name["client_accuracy"]: share(row, "client_accuracy"),
        name["loss"]: "" if row.get("loss") is None else f"{row['loss']:.4g}",
        "up": travelled(row, "up"),
        "down": travelled(row, "down"),
        name["seconds"]: taken(row),
    }
    counts = {kind: row.get(f"clients_{kind}") for kind in ("ok", "late", "failed")}
    clients = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    if reasons := row.get("failures"):
        client, reason = next(iter(reasons.items()))
        clients += f" (client {client}: {reason})"
    return {name["round"]: str(row["round"]), **cells, "clients": clients}


def share(row: Row, key: str) -> str:
    """A fraction in percent; empty where the row has none."""
    return "" if row.get(key) is None else f"{100 * row[key]:.1f} %"


def travelled(row: Row, direction: str) -> str:
    """Bytes as they were sent, coded, beside the raw bytes of the tensors where these are others."""
    raw, coded = row.get(f"bytes_{direction}"), row.get(f"coded_bytes_{direction}")
    if raw is None or coded in (None, raw):
        return "" if raw is None else size(raw)
    return f"{size(float(coded or 0))} (raw {size(raw)})"


def taken(row: Row) -> str:
    """The time of a round, and beside it that of a virtual clock.

    >>> taken({"seconds": 1.25}), taken({"seconds": 1.25, "simulated_seconds": 90.0})
    ('1.2 s', '1.2 s (simulated 1 min 30 s)')
    """
    if row.get("seconds") is None:
        return ""
    simulated = f" (simulated {duration(row['simulated_seconds'])})" if row.get("simulated_seconds") else ""
    return f"{duration(row['seconds'])}{simulated}"


def remaining(times: list[float], row: Row, rounds: int) -> str:
    """The time to go, from the mean of the last five rounds; this row is added to them; empty before round 1."""
    if row["round"] < 1 or not row.get("seconds"):
        return ""
    times.append(float(row["seconds"]))
    to_go = sum(times[-5:]) / len(times[-5:]) * (rounds - row["round"])
    return f"  {duration(to_go)} to go" if to_go else ""
