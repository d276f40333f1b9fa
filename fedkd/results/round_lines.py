"""A round in words: one line of text each, as a run goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fedkd.results.row_keys import describe_key, with_test_set
from fedkd.results.statistics import duration, size

Row = Mapping[str, Any]
OnRow = Callable[[Row], None]


@contextmanager
def plain_lines(title: str, rounds: int) -> Iterator[OnRow]:
    """One line of text a round."""
    print(title, flush=True)
    times: list[float] = []

    announced = set[str]()

    def on_row(row: Row) -> None:
        if (whose := str(row.get("accuracy_of", ""))) and whose not in announced:
            print(f"accuracy: {with_test_set(whose)}", flush=True)
            announced.add(whose)
        cells = describe(row)
        text = "  ".join(f"{name} {value}" for name, value in cells.items() if value and name != "round")
        print(f"round {row['round']}/{rounds}  {text}{remaining(times, row, rounds)}", flush=True)

    yield on_row


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
        name["seconds"]: "" if row.get("seconds") is None else duration(row["seconds"]),
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


def remaining(times: list[float], row: Row, rounds: int) -> str:
    """The time to go, from the mean of the last five rounds; this row is added to them; empty before round 1."""
    if row["round"] < 1 or not row.get("seconds"):
        return ""
    times.append(float(row["seconds"]))
    to_go = sum(times[-5:]) / len(times[-5:]) * (rounds - row["round"])
    return f"  {duration(to_go)} to go" if to_go else ""
