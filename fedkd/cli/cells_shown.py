"""What a sweep shows while it goes on: one table of all cells on a terminal, lines of text in a pipe, or JSON lines."""

from __future__ import annotations

import json
import sys
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, final

from fedkd.engine.cells import Cell, State
from fedkd.engine.sweep.carry_out import Outcome, Row, Watcher
from fedkd.results.files import plain
from fedkd.results.statistics import duration

if TYPE_CHECKING:
    from rich.table import Table

#: How many cells a live table shows: those at work and those that failed first.
SHOWN = 30


class Shown(Watcher, AbstractContextManager["Shown"]):
    """Shows a sweep from when it is entered to when it is left."""

    def __init__(self, names: Mapping[Path, str], states: Mapping[Path, State]) -> None:
        self.names, self.states, self.of = names, dict(states), len(states)
        self.ended_cells = sum(state is State.DONE for state in states.values())
        self._noted = set[str]()

    def ended(self, cell: Cell, outcome: Outcome) -> None:
        """Count it, and show it."""
        self.ended_cells += 1
        self.states[cell.out] = State.FAILED if outcome.failure else State.DONE
        for notice in [each for each in outcome.notices if each not in self._noted]:
            self._noted.add(notice)
            print(f"fedkd: note: {self.names[cell.out]}: {notice}", file=sys.stderr)
        if outcome.traceback:
            print(outcome.traceback, file=sys.stderr)
        self.tell(cell, outcome)

    @abstractmethod
    def tell(self, cell: Cell, outcome: Outcome) -> None:
        """Show that a cell has ended."""

    def __exit__(self, *_: object) -> None:
        """The sweep is over."""


def accuracy_in_words(row: Row | None) -> str:
    """The accuracy of a row, empty where it was not measured."""
    return "" if row is None or row.get("accuracy") is None else f"{100 * row['accuracy']:.1f} %"


@final
class Lines(Shown):
    """A line when a cell begins, and one when it has ended."""

    def __enter__(self) -> Self:
        """Begin."""
        self._last: dict[Path, Row] = {}
        return self

    def begun(self, cell: Cell) -> None:
        """Print its name."""
        going_on = " goes on" if self.states[cell.out] is State.UNFINISHED else ""
        print(f"{self.names[cell.out]}{going_on} ({cell.experiment.rounds} rounds)", flush=True)

    def round(self, cell: Cell, row: Row) -> None:
        """Keep the last accuracy that was measured."""
        if row.get("accuracy") is not None:
            self._last[cell.out] = row

    def tell(self, cell: Cell, outcome: Outcome) -> None:
        """Print what became of it."""
        what = f"FAILED: {outcome.failure}" if outcome.failure else "done"
        accuracy = accuracy_in_words(self._last.get(cell.out))
        parts = [what, f"accuracy {accuracy}" if accuracy else "", duration(outcome.seconds)]
        text = "  ".join(filter(None, parts))
        print(f"[{self.ended_cells}/{self.of}] {self.names[cell.out]}  {text}", flush=True)


@final
class Json(Shown):
    """An object for each event: a cell begins, has a round, has ended."""

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def begun(self, cell: Cell) -> None:
        """Print that it begins."""
        self._print(cell, {"event": "begun", "rounds": cell.experiment.rounds})

    def round(self, cell: Cell, row: Row) -> None:
        """Print the row."""
        self._print(cell, {"event": "round", **row})

    def tell(self, cell: Cell, outcome: Outcome) -> None:
        """Print what became of it."""
        event = {"event": "failed", "failure": outcome.failure} if outcome.failure else {"event": "done"}
        self._print(cell, {**event, "seconds": outcome.seconds})

    def _print(self, cell: Cell, event: Mapping[str, Any]) -> None:
        print(json.dumps(plain({"cell": self.names[cell.out], **event}), allow_nan=False), flush=True)


@final
class Live(Shown):
    """One table of all cells that changes in place."""

    def __enter__(self) -> Self:
        """Begin to draw."""
        from rich.live import Live as RichLive

        self._rows: dict[Path, Row] = {}
        self._accuracies: dict[Path, str] = {}
        self._began: dict[Path, float] = {}
        self._took: dict[Path, float] = {}
        self._rounds: dict[Path, int] = {}
        self._live = RichLive(get_renderable=self.table, refresh_per_second=4)
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the table as it is."""
        self._live.stop()

    def begun(self, cell: Cell) -> None:
        """It is at work."""
        self._began[cell.out], self._rounds[cell.out] = time.monotonic(), cell.experiment.rounds

    def round(self, cell: Cell, row: Row) -> None:
        """How far it is."""
        self._rows[cell.out] = row
        self._accuracies[cell.out] = accuracy_in_words(row) or self._accuracies.get(cell.out, "")

    def tell(self, cell: Cell, outcome: Outcome) -> None:
        """How long it took."""
        self._took[cell.out] = outcome.seconds
        self._began.pop(cell.out, None)

    def table(self) -> Table:
        """The cells as they are now."""
        from rich.table import Table
        from rich.text import Text

        shown = Table(caption=self.caption(), caption_justify="left", box=None, pad_edge=False)
        for name in ("cell", "state", "round", "accuracy", "time"):
            shown.add_column(name, justify="left" if name in ("cell", "state") else "right")
        for place in self.in_sight():
            state = "at work" if place in self._began else str(self.states[place])
            row, seconds = self._rows.get(place), self._took.get(place)
            if place in self._began:
                seconds = time.monotonic() - self._began[place]
            cells = (
                self.names[place],
                state,
                f"{row['round']}/{self._rounds[place]}" if row else "",
                self._accuracies.get(place, ""),
                "" if seconds is None else duration(seconds),
            )
            shown.add_row(*(Text(text, style="red" if state == State.FAILED else "") for text in cells))
        return shown

    def in_sight(self) -> list[Path]:
        """The cells that are shown, in their order; of many those at work and those that failed go first."""
        if len(self.names) <= SHOWN:
            return list(self.names)

        def urgency(place: Path) -> int:
            return 0 if place in self._began else {State.FAILED: 1, State.TO_DO: 2}.get(self.states[place], 3)

        chosen = set(sorted(self.names, key=urgency)[:SHOWN])
        return [place for place in self.names if place in chosen]

    def caption(self) -> str:
        """How many cells are over, and the time to go at the pace so far."""
        text = f"{self.ended_cells} of {self.of} cells"
        if self.ended_cells == self.of:
            return text
        if not self._took:
            return f"{text}; Ctrl-C stops"
        latest = [*self._took.values()][-5:]  # the first ones load libraries
        pace = sum(latest) / len(latest)
        spent = sum(time.monotonic() - since for since in self._began.values())
        left = pace * (self.of - self.ended_cells) - spent
        return f"{text}; about {duration(max(left, 0.0) / max(1, len(self._began)))} to go; Ctrl-C stops"


def shown_here(names: Mapping[Path, str], states: Mapping[Path, State], *, as_json: bool) -> Shown:
    """What shows a sweep for the output at hand."""
    kind: type[Shown] = Json if as_json else Live if sys.stdout.isatty() else Lines
    return kind(names, states)


def plan_rows(cells: Sequence[Cell], names: Mapping[Path, str], states: Mapping[Path, State]) -> list[dict[str, str]]:
    """The cells of a plan as a table."""
    from fedkd.results.recorded import RecordedRun

    rows = []
    for cell in cells:
        state = states[cell.out]
        done = RecordedRun.read(cell.out).rounds_done if state is not State.TO_DO else 0
        rows.append({"cell": names[cell.out], "state": str(state), "rounds": f"{max(done, 0)}/{cell.experiment.rounds}"})
    return rows
