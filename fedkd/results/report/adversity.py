"""What went wrong, on purpose or not: faults, attacks, privacy, and why replies were not used."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from fedkd.results.recorded import RecordedRun, Seeds
from fedkd.results.report.chart import Axis, line_chart
from fedkd.results.report.losses import plain_line
from fedkd.results.report.names import in_detail
from fedkd.results.report.parts import Figure, Panel, Section, Table
from fedkd.results.report.series import course, table_of

#: So many single replies are shown, with so many characters of each reason; clients.jsonl has all.
SHOWN, LETTERS = 100, 1500
FAULTS = {
    "dropout": "does not answer at all",
    "straggle": "comes too late",
    "crash": "fails while it works",
    "nan": "uploads numbers that are not finite",
}


def conditions(run: RecordedRun) -> dict[str, str]:
    """What the experiment does to its clients beside the algorithm: name -> in words. Empty where it does nothing."""
    told = run.experiment
    shares = {name: float(told.get(f"faults.{name}") or 0) for name in FAULTS}
    faults = [f"{FAULTS[name]} with probability {share:g}" for name, share in shares.items() if share]
    found = {"Simulated faults": "in each round a client " + ", ".join(faults)} if faults else {}
    if (attack := told.get("attack.name")) and float(told.get("attack.share") or 0):
        share, scale = float(told["attack.share"]), float(told.get("attack.scale") or 1)
        found["Attack"] = f"{attack} by {100 * share:g} % of the clients" + (f", scale {scale:g}" if scale != 1 else "")
    if noise := float(told.get("privacy.noise_multiplier") or 0):
        clip = float(told.get("privacy.clip") or 1)
        found["Privacy"] = f"Gaussian noise of {noise:g} x {clip:g} on uploads that are clipped to norm {clip:g}"
    return found


def adversity(groups: Sequence[Seeds]) -> Section:
    """The section; nothing where nothing is on and nothing failed."""
    figures: list[Figure] = []
    tables: list[Table] = []
    pairs: list[tuple[str, str]] = []
    for more, run in in_detail(groups):
        pairs += [(f"{name}{more}", text) for name, text in conditions(run).items()]
        pairs += [(f"{name}{more}", text) for name, text in privacy(run)]
        if lost := list(failures(run)):
            figures.append(_replies(run, more))
            tables += [_reasons(lost, more), _singly(lost, more)]
        if (line := plain_line(run, "epsilon", 0)).x and conditions(run).get("Privacy"):
            drawing = line_chart([line], Axis("round", "round"), Axis("epsilon"), f"Privacy spent: {course(line, 'epsilon')}.")
            title = f"Epsilon, spent so far{more}"
            figures.append(Figure(title, [Panel("", drawing)], table_of(title, [line])))
        back = [f"round {row['round']}: {row.get('rolled_back_reason')}" for row in run.rows if row.get("rolled_back")]
        pairs += [(f"Rolled back{more}", "; ".join(back))] if back else []
    return Section("adversity", "Faults, attacks, privacy and rejected replies", "", figures, tables, pairs)


def failures(run: RecordedRun) -> Iterator[tuple[int, Any, str]]:
    """(round, client, reason) of every client that gave no usable reply."""
    for row in run.clients:
        if row.get("status", "ok") != "ok":
            yield row["round"], row["client"], str(row.get("reason") or row["status"])
    for measured in run.rows:
        for client, reason in (measured.get("evaluation_failures") or {}).items():
            yield measured["round"], client, f"evaluation: {reason}"


def privacy(run: RecordedRun) -> list[tuple[str, str]]:
    """What the noise of a run guarantees, and what it does not cover; nothing where none was drawn."""
    noised = [row for row in run.rows if "epsilon_of" in row]
    if not noised:
        return []
    last = noised[-1]
    spent = f"{last['epsilon']:.4g}" if last["epsilon"] is not None else "without bound"  # infinity is no JSON
    return [
        (
            "Epsilon",
            f"{spent} at delta {last['delta']:g} after the last round, of {last['epsilon_of']}; towards all, the server too",
        ),
        (
            "Not covered by epsilon",
            "whoever knows the seed, from which a simulation draws its noise; that and when a client answers; class names, the "
            "pixels' mean and public samples; clients' accuracies here, which were measured by the experimenter, who has all "
            "data: where clients run elsewhere they are not sent",
        ),
    ]


def kind_of(reason: str) -> str:
    """The first line of a reason with its numbers left out, so that equal ones are counted together.

    >>> kind_of("ValueError: client 1, round 12: loss is nan\\n  File ...")
    'ValueError: client #, round #: loss is nan'
    """
    first = next((line for line in reason.splitlines() if line.strip()), reason)
    return re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "#", first)[:160]


def _replies(run: RecordedRun, more: str) -> Figure:
    keys = {"clients_ok": "used", "clients_late": "late", "clients_failed": "failed or rejected"}
    lines = [plain_line(run, key, style, name) for style, (key, name) in enumerate(keys.items())]
    finding = (
        "Clients by what became of their replies: " + "; ".join(course(line, "clients_ok") for line in lines if line.x) + "."
    )
    drawing = line_chart(lines, Axis("round", "round"), Axis("clients"), finding)
    title = f"What became of replies{more}"
    return Figure(title, [Panel("", drawing)], table_of(title, lines), [(line.style, line.name) for line in lines])


def _reasons(lost: Sequence[tuple[int, Any, str]], more: str) -> Table:
    counts = Counter(kind_of(reason) for _, _, reason in lost)
    who: dict[str, set[str]] = defaultdict(set)
    when: dict[str, list[int]] = defaultdict(list)
    for round, client, reason in lost:
        who[kind_of(reason)].add(str(client))
        when[kind_of(reason)].append(round)
    rows = [
        [reason, str(count), str(len(who[reason])), f"{min(when[reason])} to {max(when[reason])}"]
        for reason, count in counts.most_common(SHOWN)
    ]
    return Table(
        f"Replies that were not used, by reason (# stands for a number){more}",
        ["reason", "replies", "clients", "rounds"],
        rows,
        frozenset({0}),
    )


def _singly(lost: Sequence[tuple[int, Any, str]], more: str) -> Table:
    rows = [[str(round), str(client), _cut(reason)] for round, client, reason in lost[:SHOWN]]
    count = f"the first {SHOWN} of {len(lost)}; clients.jsonl has all" if len(lost) > SHOWN else f"{len(lost)}"
    return Table(f"Replies that were not used, one by one ({count}){more}", ["round", "client", "reason"], rows, frozenset({2}))


def _cut(reason: str) -> str:
    return reason if len(reason) <= LETTERS else f"{reason[: LETTERS // 3]} ... {reason[-2 * LETTERS // 3 :]}"
