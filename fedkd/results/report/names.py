"""What figures about one run are called where several are shown."""

from __future__ import annotations

from collections.abc import Sequence

from fedkd.results.recorded import RecordedRun, Seeds

#: Of more groups than this only the first are shown in detail: a page stays a page.
DETAILED = 6


def in_detail(groups: Sequence[Seeds]) -> list[tuple[str, RecordedRun]]:
    """The runs that are shown one by one, with what is added to the titles of their figures: of each group its first seed."""
    shown = []
    for group in groups[:DETAILED]:
        run = group.runs[0]
        seed = f"seed {run.seed} of {len(group.runs)} seeds" if len(group.runs) > 1 else ""
        of = ", ".join(part for part in (group.label if len(groups) > 1 else "", seed) if part)
        shown.append((f": {of}" if of else "", run))
    return shown


def class_names(run: RecordedRun, count: int) -> list[str]:
    """The names of so many classes; their numbers where the run's data do not say."""
    names = [] if run.data is None else list(run.data.classes)
    return names if len(names) == count else [str(number) for number in range(count)]
