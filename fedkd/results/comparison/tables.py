"""A comparison in words: tables of text, and the notes without which nobody should quote them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import comb, isnan

from fedkd.results.comparison.comparison import SIGNIFICANT, Comparison, Difference, Group, Sample
from fedkd.results.comparison.intervals import RESAMPLES, Interval
from fedkd.results.comparison.readings import higher_is_better
from fedkd.results.curves import is_share
from fedkd.results.row_keys import describe_key, with_test_set
from fedkd.results.statistics import duration, energy, size

#: From so many seeds on the bootstrap's interval is about as wide as it should be.
ENOUGH_FOR_BOOTSTRAP = 10
#: What it took to reach a target, as far as runs have recorded it.
NOT_ALWAYS = ("cpu_seconds", "joules", "simulated_seconds")


@dataclass(frozen=True)
class Table:
    """A table of text: its title, rows that all have the same headings, and notes."""

    title: str
    rows: Sequence[Mapping[str, str]]
    notes: Sequence[str] = ()


def tables_of(comparison: Comparison) -> list[Table]:
    """The tables of a comparison: readings, differences, clients, target; without those that nobody asked for."""
    found = [readings_table(comparison)]
    if comparison.differences:
        found.append(differences_table(comparison))
    if any(group.clients for group in comparison.groups):
        found.append(clients_table(comparison.groups))
    if comparison.target is not None:
        found.append(target_table(comparison))
    return found


def readings_table(comparison: Comparison) -> Table:
    """Last, best and mean of the last k, each with both intervals."""
    groups, write = comparison.groups, writer(comparison.metric)
    highest = "best" if is_share(comparison.metric) else "lowest"
    mean = f"mean of the last {_from_to([count for group in groups for count in group.averaged])}"
    headings = {"last": "last", "best": highest, "mean": mean}
    rows = [
        {
            "group": group.label,
            "seeds": str(len(group.seeds)),
            "rounds": _from_to(group.rounds),
            **{heading: with_intervals(group.readings[name], write) for name, heading in headings.items()},
            **_whose(comparison, group),
        }
        for group in groups
    ]
    return Table(_title(comparison.metric), rows, list(_notes(comparison, highest)))


def _whose(comparison: Comparison, group: Group) -> dict[str, str]:
    names = {each.accuracy_of for each in comparison.groups}
    return {"accuracy of": group.accuracy_of} if comparison.metric == "accuracy" and len(names) > 1 else {}


def _notes(comparison: Comparison, highest: str) -> Iterator[str]:
    if comparison.metric == "accuracy" and not _whose(comparison, comparison.groups[0]):
        yield f"accuracy: of {with_test_set(comparison.groups[0].accuracy_of)}"
    fewest = min(len(group.seeds) for group in comparison.groups)
    if any(len(group.seeds) > 1 for group in comparison.groups):
        yield f"±: 95 % interval of Student's t over seeds; [ ]: that of the bootstrap (BCa, {RESAMPLES:,} resamples)"
    if 1 < fewest < ENOUGH_FOR_BOOTSTRAP:
        resamples = comb(2 * fewest - 1, fewest)
        yield (
            f"the bootstrap knows {resamples} different resamples of {fewest} seeds, and its interval is too narrow with fewer "
            f"than {ENOUGH_FOR_BOOTSTRAP}: quote Student's"
        )
    if fewest == 1:
        yield "a group of one seed has no interval: nothing can be said about what another seed would give"
    chosen = "chosen on the test set, so it flatters" if highest == "best" else "chosen after the fact, so it flatters"
    yield f"{highest}: {chosen}; quote the last"


def differences_table(comparison: Comparison) -> Table:
    """Paired differences on shared seeds, with p-values, and what may be said of them."""
    write = writer(comparison.metric)
    baselines = {each.against for each in comparison.differences}
    one = len(baselines) == 1
    points = "percentage points" if is_share(comparison.metric) else describe_key(comparison.metric).unit
    named = {"last": "last", "best": "best", "mean": f"mean of the last {comparison.last_k}"}[comparison.reading]
    title = ", ".join(filter(None, [f"{describe_key(comparison.metric).short} ({named}), paired differences", points]))
    rows = [
        {"group": each.group, **({} if one else {"minus": each.against}), **_difference(each, write)}
        for each in comparison.differences
    ]
    many = len(comparison.differences)
    notes = [
        "paired: runs of one seed, whose draws are the same where their settings are; interval and p: Student's t of these",
        f"p, Holm: adjusted for {many} comparison{'s' if many > 1 else ''}",
        f"better, worse: the interval leaves 0 out and p (Holm) is below {SIGNIFICANT}; "
        + ("more is better" if higher_is_better(comparison.metric) else "less is better"),
    ]
    return Table(f"{title}, minus {next(iter(baselines))}" if one else title, rows, notes)


def _difference(each: Difference, write: Callable[[float], str]) -> dict[str, str]:
    paired = each.paired
    return {
        "shared seeds": str(paired.seeds),
        "difference": "" if isnan(paired.mean) else f"{'+' if paired.mean > 0 else ''}{write(paired.mean)}",
        "95 % interval": between(Interval(paired.mean, paired.low, paired.high), write),
        "p": p_value(paired.p),
        "p, Holm": p_value(each.p_holm),
        "verdict": each.verdict,
    }


def clients_table(groups: Sequence[Group]) -> Table:
    """How accuracy is spread over clients."""
    share, plain = writer("accuracy"), "{:.3f}".format
    columns = {
        "mean": ("mean over clients", share),
        "worst_tenth": ("worst tenth", share),
        "deviation": ("standard deviation", share),
        "jain": ("Jain's index", plain),
    }
    rows = [
        {
            "group": group.label,
            **{heading: plus_minus(group.clients[name], write) for name, (heading, write) in columns.items()},
        }
        for group in groups
        if group.clients
    ]
    notes = [
        "each client on its own test samples, in the last round that was evaluated; ±: 95 % interval of Student's t over seeds",
        "fairness: the standard deviation over clients (0 is fair) and Jain's index, (sum x)^2 / (K sum x^2), at most 1 (fair)",
    ]
    return Table("accuracy over clients, %", rows, notes)


def target_table(comparison: Comparison) -> Table:
    """What it took to reach the target. No mean is taken of some seeds where others did not get there."""
    target, write = comparison.target or 0.0, writer(comparison.metric)
    reached = [each for group in comparison.groups for each in group.reached.values() if each]
    also = [key for key in NOT_ALWAYS if any(getattr(each, key) is not None for each in reached)]
    columns: dict[str, tuple[str, Callable[[float], str]]] = {
        "rounds": ("round", "{:.3g}".format),
        "uploaded": ("uploaded", size),
        "downloaded": ("downloaded", size),
        "time": ("seconds", duration),
        **{describe_key(key).label: (key, energy if key == "joules" else duration) for key in also},
    }
    rows = []
    for group in comparison.groups:
        there = [each for each in group.reached.values() if each]
        taken = {name: ([getattr(each, of) for each in there], write_one) for name, (of, write_one) in columns.items()}
        cells = {name: _spent(values, len(group.reached), write_one) for name, (values, write_one) in taken.items()}
        rows.append({"group": group.label, "reached by": f"{len(there)} of {len(group.reached)} seeds", **cells})
    unit = " %" if is_share(comparison.metric) else ""
    notes = [
        "sums over all clients until a round after round 0 was measured at the target; of seeds that all reached it their mean",
        "where some did not, the range of those that did: a mean of them alone would flatter",
    ]
    return Table(f"to {describe_key(comparison.metric).short} {write(target)}{unit}", rows, notes)


def _spent(values: Sequence[float | None], seeds: int, write: Callable[[float], str]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "not recorded" if values else "not reached"
    if len(known) == seeds:
        return write(sum(known) / seeds)
    low, high = write(min(known)), write(max(known))
    return f"({low})" if low == high else f"({low} to {high})"


def writer(metric: str) -> Callable[[float], str]:
    """How numbers of a metric are written: shares in percent, without its sign, which stands in the title."""
    return (lambda value: f"{100 * value:.1f}") if is_share(metric) else (lambda value: f"{value:.4g}")


def plus_minus(sample: Sample, write: Callable[[float], str]) -> str:
    """Mean ± half of Student's interval; of one seed its value alone."""
    inside = sample.student
    return write(inside.mean) if isnan(inside.low) else f"{write(inside.mean)} ± {write(inside.high - inside.mean)}"


def with_intervals(sample: Sample, write: Callable[[float], str]) -> str:
    """Mean ± half of Student's interval, and the bootstrap's in brackets."""
    return f"{plus_minus(sample, write)} {between(sample.bootstrap, write)}".strip()


def between(inside: Interval, write: Callable[[float], str]) -> str:
    """The borders of an interval; empty where there is none."""
    return "" if isnan(inside.low) else f"[{write(inside.low)}, {write(inside.high)}]"


def p_value(p: float) -> str:
    """A p-value as papers have it.

    >>> p_value(0.0412), p_value(0.00001), p_value(float("nan"))
    ('0.041', '<0.001', '')
    """
    return "" if isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def _title(metric: str) -> str:
    key = describe_key(metric)
    return f"{key.short}, %" if is_share(metric) else key.short + (f", {key.unit}" if key.unit else "")


def _from_to(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"
