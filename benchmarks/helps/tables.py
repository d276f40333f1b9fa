"""The tables of ../when_helps.py as Markdown, and their places in the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cells import put_tables
from helps.plan import DEFAULT, KINDS, LONG, LONGER, PUBLIC, ROUNDS, Cell, Condition
from helps.readings import CASES, MEASURES, Advice, Found, advise, by_seed, gain, of_whole_seeds, that_do_not_count

#: What was expected, and what shows it: method, base, measure, and in which conditions.
EXPECTED: tuple[tuple[str, tuple[tuple[str, str, str, Condition], ...]], ...] = (
    (
        "1. On own tests nobody beats `local` at alpha 0.1 and below",
        tuple((m, "local", "own", replace(DEFAULT, alpha=0.1)) for m in ("fedmd", "fd", "fml", "fedavg")),
    ),
    (
        "1. ... and at alpha 1 and above `fedavg` and what builds on it do",
        tuple((m, "local", "own", replace(DEFAULT, alpha=1.0)) for m in ("fedavg", "fedntd", "fedgen", "fml")),
    ),
    (
        "2. On all classes whatever averages weights is first",
        tuple((m, "local", "all", DEFAULT) for m in ("fedavg", "feddf", "fedntd", "fml", "fedgen", "dsfl", "fedmd")),
    ),
    ("2. ... and answers by class are where `local` is", tuple((m, "local", "all", DEFAULT) for m in ("fd", "fedproto"))),
    (
        "3. `fedmd` gains on all classes and loses nothing on own; `dsfl` gains more and loses there",
        tuple((m, "local", key, DEFAULT) for m in ("fedmd", "dsfl") for key in ("all", "own")),
    ),
    (
        "4. More public samples help less and less",
        tuple((m, "local", "all", replace(DEFAULT, public=count)) for count in (50, 200, 1000, 320) for m in PUBLIC),
    ),
    (
        "4. ... of another data set half as much, and noise not at all",
        tuple((m, "local", "all", replace(DEFAULT, public_of=of)) for of in ("other", "noise") for m in PUBLIC),
    ),
    (
        "5. With 100 samples a client gains over `local` are smaller than with 10",
        tuple((m, "local", "all", replace(DEFAULT, samples=count)) for m in ("fedavg", "fedmd", "fml") for count in (10, 100)),
    ),
    (
        "5. ... and with 30 clients larger than with 3",
        tuple((m, "local", "all", replace(DEFAULT, clients=count)) for m in ("fedavg", "fedmd", "fml") for count in (3, 30)),
    ),
    (
        "6. `fml` is as good as `local` on own tests, and as `fedavg` on all classes",
        (("fml", "local", "own", DEFAULT), ("fml", "fedavg", "all", DEFAULT)),
    ),
)


def tables(found: Found, cells: Sequence[Cell]) -> dict[str, str]:
    """Mark of the page -> what stands there."""
    used = of_whole_seeds(found, cells)
    made = {"advice": advice_table(used), "expected": expected_table(used), "longer": longer_table(used)}
    return {"seeds": seeds_said(found, cells), **made}


def write_page(page: Path, found: Found, cells: Sequence[Cell]) -> None:
    """Put the tables into the page."""
    put_tables(page, tables(found, cells))


def seeds_said(found: Found, cells: Sequence[Cell]) -> str:
    """How many cells there are of each seed, and which conditions do not count.

    >>> seeds_said({}, [])
    'Runs that are there: none.'
    """
    counted = []
    for seed in sorted({cell.seed for cell in cells}):
        there, all_of = (sum(cell.seed == seed for cell in group) for group in (found, cells))
        counted.append(f"seed {seed}: {there} of {all_of}" if there < all_of else f"seed {seed}: all {all_of}")
    said = f"Runs that are there: {', '.join(counted) or 'none'}."
    used = of_whole_seeds(found, cells)
    if len(used) < len(found):
        said += " Tables and figures are of the whole seeds."
    if len({cell.seed for cell in used}) == 1:
        said += " **With one seed nothing is claimed**: a difference may be this draw's."
    if silent := that_do_not_count(used):
        said += f" By the plan's rule these do not count: {'; '.join(silent)}."
    return said


def advice_table(found: Found) -> str:
    """A row a case: whom to take for either measure."""
    heads = ["if you have", *(f"for {name} take" for name in reversed(MEASURES.values())), "seeds"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for case in CASES:
        advices = [advise(found, case, key) for key in reversed(MEASURES)]
        seeds = {str(advice.seeds) for advice in advices if advice}
        lines.append(f"| {' | '.join([case.name, *map(advised, advices), ', '.join(sorted(seeds))])} |")
    return "\n".join(lines)


def advised(advice: Advice | None) -> str:
    """One cell of it; in bold what is claimed on both kinds of data."""
    if advice is None:
        return "not measured"
    itself = not any(any(each.each) for each in advice.gains.values())  # the base, which is nothing over itself
    gains = "" if itself else f" ({', '.join(f'{each} {kind}' for kind, each in advice.gains.items())})"
    name = f"`{advice.method}`"
    if all(each.claimed and each.mean > 0 for each in advice.gains.values()):
        name = f"**{name}**"
    near = f"; as good: {', '.join(f'`{method}`' for method in advice.near)}" if advice.near else ""
    return f"{name}{gains}{near}"


def expected_table(found: Found) -> str:
    """What was expected beside what came."""
    lines = ["| expected | points that came: images, signals |", "|---|---|"]
    for said, shown in EXPECTED:
        parts: dict[str, list[str]] = {}
        for method, base, key, at in shown:
            gains = [str(each) for kind in KINDS if (each := gain(found, kind, at, method, base, key))]
            what = f"{MEASURES[key]}, over `{base}`{'' if at == DEFAULT else f', {at.named()}'}"
            parts.setdefault(what, []).extend([f"`{method}` {', '.join(gains)}"] if gains else [])
        came = "<br>".join(f"{what}: {'; '.join(each)}" for what, each in parts.items() if each)
        lines.append(f"| {said} | {came or 'not measured'} |")
    return "\n".join(lines)


def longer_table(found: Found) -> str:
    """Accuracy after the usual rounds and after many more, in the default setting."""
    from fedkd.results.statistics import percent

    columns = [(key, kind) for key in reversed(MEASURES) for kind in KINDS]
    heads = ["rounds", *(f"{MEASURES[key]}, {kind}" for key, kind in columns)]
    lines = [f"|  | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for method in LONG:
        for rounds in (ROUNDS, LONGER):
            shares = [by_seed(found, kind, DEFAULT, method, key, rounds) for key, kind in columns]
            texts = [percent([*each.values()]) if each else "not measured" for each in shares]
            lines.append(f"| `{method}` | {' | '.join([str(rounds), *texts])} |")
    return "\n".join(lines)
