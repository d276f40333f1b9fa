"""The head of the page: what was run, how far it is, and what came out."""

from __future__ import annotations

from collections.abc import Sequence

from fedkd.results.curves import is_recorded
from fedkd.results.environment import read_environment
from fedkd.results.recorded import RecordedRun, Seeds
from fedkd.results.report.adversity import conditions, failures
from fedkd.results.report.cells import cell, with_interval
from fedkd.results.statistics import duration, energy, last_measured, mean_interval, size
from fedkd.results.statistics import summary as summarise


def heading(groups: Sequence[Seeds]) -> str:
    """The title. What acts on the clients beside the algorithm is part of it: no number may be read without it."""
    sources = list(dict.fromkeys(str(group.runs[0].experiment.get("data.source") or "data") for group in groups))
    names = list(dict.fromkeys(group.runs[0].strategy for group in groups))
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    first = groups[0]
    seeds = f"seed {first.runs[0].seed}" if len(first.runs) == 1 else f"{len(first.runs)} seeds"
    text = f"{shown} on {', '.join(sources)}" + (f", {seeds}" if len(groups) == 1 else "")
    on = [
        name.lower() for name in ("Simulated faults", "Attack", "Privacy") if any(name in conditions(g.runs[0]) for g in groups)
    ]
    if not on:
        return text
    with_all = f"{', '.join(on[:-1])} and {on[-1]}" if len(on) > 1 else on[0]
    return f"{text}, with {with_all.replace('attack', 'an attack')}"


def lead(groups: Sequence[Seeds]) -> str:
    """One line under the title."""
    run, several = groups[0].runs[0], len(groups) > 1
    if several:
        runs = sum(len(group.runs) for group in groups)
        return f"{len(groups)} experiments, {runs} runs"
    told = run.experiment
    nets = told.get("nets") or ", ".join(f"{k.removeprefix('nets.')} {v}" for k, v in told.items() if k.startswith("nets."))
    done = " to ".join(str(n) for n in sorted({max(0, r.rounds_done) for r in groups[0].runs}))
    clients = f"{told.get('data.clients', '?')} clients, {told.get('data.partition', '')} partition"
    return f"{done} of {told['rounds']} rounds, {clients}, nets {nets}"


def state(runs: Sequence[RecordedRun]) -> str:
    """What a reader must know of runs that have not come to their end; empty where all have."""
    parts = []
    for run in runs:
        name = f"{run.strategy}, seed {run.seed}" if len(runs) > 1 else "The run"
        if run.failure:
            parts.append(f"{name}: nothing to show: {run.failure}.")
        elif run.stopped:
            parts.append(f"{name} stopped after round {run.rounds_done} of {run.experiment['rounds']}: {run.stopped}.")
        elif not run.complete:
            stands = f"round {run.rounds_done} of {run.experiment['rounds']}" if run.rounds_done >= 0 else "no round yet"
            parts.append(f"{name} is not finished: {stands}. These are not its last numbers.")
    return " ".join(parts)


def tiles(group: Seeds) -> list[tuple[str, str, str]]:
    """(what, how much, beneath it) of the numbers that are read first; means over seeds with their 95 % interval."""
    shown = []
    summaries = [found for run in group.runs if (found := summarise(run.rows))]
    if summaries:
        one = summaries[0] if len(summaries) == 1 else None
        readings = {
            "Last accuracy": ([each.last for each in summaries], f"round {one.last_round}" if one else "mean over seeds"),
            "Best accuracy": ([each.best for each in summaries], f"round {one.best_round}" if one else "mean over seeds"),
            f"Mean of the {last_measured([each.averaged for each in summaries])}": (
                [each.mean_last_five for each in summaries],
                "measured rounds",
            ),
        }
        for name, (values, beneath) in readings.items():
            mean, half = mean_interval(values)
            shown.append((name, with_interval("accuracy", float(mean), float(half)), beneath))
    run = group.runs[0]
    of = "" if len(group.runs) == 1 else f", seed {run.seed}"
    shown.append((f"Uploaded{of}", travelled(run, "up"), f"downloaded {travelled(run, 'down')}"))
    cores = read_environment(run.path).get("cores", "unknown")
    shown.append((f"Time{of}", duration(_sum(run, "seconds")), f"{cores} cores"))
    if is_recorded(run.rows, "cpu_seconds"):
        shown.append((f"CPU time{of}", duration(_sum(run, "cpu_seconds")), "user and system, all threads"))
    if is_recorded(run.rows, "joules"):
        shown.append((f"Energy{of}", energy(_sum(run, "joules")), "of the whole processor"))
    if (simulated := _sum(run, "simulated_seconds")) > 0:
        shown.append((f"Simulated time{of}", duration(simulated), "by the virtual clock"))
    shown.append((f"Failed or late{of}", cell("count", len(list(failures(run)))), "replies, all rounds"))
    return shown


def travelled(run: RecordedRun, direction: str) -> str:
    """The bytes of a direction over all rounds; where they were coded, so and raw."""
    raw, coded = (sum(row.get(f"{kind}bytes_{direction}") or 0 for row in run.rows) for kind in ("", "coded_"))
    return f"{size(coded)} coded, {size(raw)} raw" if coded and coded != raw else size(raw)


def _sum(run: RecordedRun, key: str) -> float:
    return float(sum(row.get(key) or 0 for row in run.rows))
