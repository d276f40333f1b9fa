"""How a notebook shows a History: what came out, the curve as large as a word, and some of its rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedkd.base.html_pieces import block, heading, sparkline, table
from fedkd.results.curves import headline_of, is_share, reading
from fedkd.results.round_lines import describe
from fedkd.results.statistics import last_measured, size, summary

Rows = Sequence[Mapping[str, Any]]
#: So many rounds are shown: the first, the last, and others evenly between.
SHOWN = 8


def history_html(rows: Rows) -> str:
    """The rows of a History."""
    if not rows:
        return block(heading("History", "of no rounds"))
    sent = sum(row.get("coded_bytes_up") or row.get("bytes_up") or 0 for row in rows)
    count = int(rows[-1]["round"])
    parts = [heading("History", f"of {count} round{'s' * (count != 1)}, {size(sent)} uploaded")]
    if (found := summary(rows)) and (values := [row["accuracy"] for row in rows if row.get("accuracy") is not None]):
        last, best, mean = (reading("accuracy", [value]) for value in (found.last, found.best, found.mean_last_five))
        line = sparkline(values, says=f"accuracy over the rounds, from {values[0]:.3g} to {values[-1]:.3g}")
        text = f"accuracy ({headline_of(rows)}): last {last}, best {best}, mean of the {last_measured([found.averaged])} {mean}"
        parts += [f"<div>{line}</div>", heading("", text)]
    return block(*parts, rounds_table(rows))


def group_html(by_seed: Mapping[int, Rows], metric: str = "accuracy") -> str:
    """The rows of several seeds: a line for each, and their mean with its interval."""
    found = {seed: summary(rows, metric) for seed, rows in by_seed.items()}
    measured = {seed: each for seed, each in found.items() if each}
    rows = [
        [f"seed {seed}", reading(metric, [each.last]), reading(metric, [each.best]), reading(metric, [each.mean_last_five])]
        for seed, each in measured.items()
    ]
    if len(measured) > 1:
        columns = zip(*((each.last, each.best, each.mean_last_five) for each in measured.values()), strict=True)
        rows.append(["mean, 95 % interval", *(reading(metric, list(values)) for values in columns)])
    averaged = last_measured([each.averaged for each in measured.values()]) if measured else "last five"
    best = "best" if is_share(metric) else "highest"
    names = ", ".join(map(str, by_seed)) or "none"
    return block(heading("Histories", f"of seeds {names}"), table([metric, "last", best, f"mean of the {averaged}"], rows))


def rounds_table(rows: Rows) -> str:
    """Some rounds in words; columns that say nothing are left out."""
    last = len(rows) - 1
    places = range(len(rows)) if last < SHOWN else sorted({round(n * last / (SHOWN - 1)) for n in range(SHOWN)})
    cells = [describe(rows[place]) for place in places]
    names = [name for name in cells[0] if any(each[name] for each in cells)]
    return table(names, [[each[name] for name in names] for each in cells])
