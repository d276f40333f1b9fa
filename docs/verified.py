"""docs/verified.md: what fedkd's numbers were held against, a row for each strategy, loss, target and reduction.

    python docs/verified.py            # writes it
    python docs/verified.py --check    # says whether it is what it would write

Rows are whatever the package has; what stands in them is read from `docs/verified.toml`, `benchmarks/results` and the marks of
tests. Nothing is run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from evidence import NOT, SAME, VERIFIED, WIDE, Evidence, of_official_code, side_by_side  # noqa: E402, beside this file
from gains import explained, of_gains, same_methods  # noqa: E402, beside this file
from pieces import page, table  # noqa: E402, beside this file
from recomputed import BY, Recomputed, recomputed  # noqa: E402, beside this file

from fedkd import aggregate, losses, targets  # noqa: E402
from fedkd.base.errors import InputError  # noqa: E402
from fedkd.experiment.registry import strategies  # noqa: E402
from fedkd.losses.distillers import DISTILLERS  # noqa: E402

ROOT = HERE.parent
PAGE = HERE / "verified.md"
HEAD = ("name", "verdict", "recomputed", "compared with", "number there", "number here")


def rows() -> dict[str, list[str]]:
    """Kind -> the names of its rows."""
    functions = dict.fromkeys([*losses.__all__, *(recipe.loss.__name__ for recipe in DISTILLERS.values())])
    reductions = [name for name in aggregate.__all__ if callable(getattr(aggregate, name))]
    values = [name for name in targets.__all__ if name[0].islower() and name != "rule_named"]
    return {
        "Strategies": [*strategies()],
        "Losses, and what goes into them": [*functions],
        "Targets of several teachers": list(dict.fromkeys([*targets.RULES, *values])),
        "Reductions of what clients send": reductions,
    }


def names() -> dict[str, str]:
    """What a source or a mark may call a row -> the row: its name, or that of a distiller by which a file names a loss."""
    own = {name: name for group in rows().values() for name in group}
    return {name: recipe.loss.__name__ for name, recipe in DISTILLERS.items()} | own


def verified_page(root: Path = ROOT, declared: Path = HERE / "verified.toml") -> str:
    """The whole page."""
    known = names()
    results = root / "benchmarks" / "results"
    evidence = of_official_code(results / "against_official.jsonl", known)
    strange: list[str] = []
    for name in sorted({key.partition(" ")[0] for key in explained(declared)}):
        if not (results / name).is_file():
            raise InputError(f"{results / name}: no such file of results, of which {declared.name} speaks: restore it")
    for file in sorted(results.glob("side_by_side*.jsonl")):
        found, without = side_by_side(file, known, explained(declared), same_methods(declared))
        evidence = [*found, *evidence]
        strange += [f"{method} (`{file.name}`)" for method in without]
    evidence += of_gains(declared, root, known)
    tests = recomputed(root / "tests", known)
    parts = [HEADING, counted(evidence, tests)]
    for kind, group in rows().items():
        whole = kind != "Strategies"
        lines = [line for name in group for line in rows_of(name, evidence, tests, whole=whole)]
        parts += [f"## {kind}", table(HEAD, lines)]
    parts += [f"Run side by side, but of no row: {', '.join(strange)}."] if strange else []
    parts += ["## What tests recompute", KINDS, *(sentences(name, tests) for group in rows().values() for name in group)]
    return page(*parts)


def rows_of(name: str, evidence: Iterable[Evidence], tests: Iterable[Recomputed], *, whole: bool) -> list[tuple[str, ...]]:
    """A row, and one more for each further comparison; the name and the tests stand in the first.

    With ``whole`` the name is a function that tests can recompute altogether, where of a strategy they recompute a part.
    """
    mine, marks = [each for each in evidence if each.name == name], [test for test in tests if test.name == name]
    if whole and marks and not any(each.verdict.startswith(VERIFIED) for each in mine):
        mine.insert(0, Evidence(name, "its definition, in tests", "", "", f"{VERIFIED} by tests"))
    mine = mine or [Evidence(name, "", "", "", NOT)]
    firsts = [(f"`{name}`", summed(marks)), *[("", "")] * (len(mine) - 1)]
    return [
        (called, each.verdict, tests, each.beside, each.there, each.here)
        for (called, tests), each in zip(firsts, mine, strict=True)
    ]


def summed(tests: Iterable[Recomputed]) -> str:
    """How many tests, by what they compare with, each with a link.

    >>> summed([Recomputed("fedx", "formula", ROOT / "tests" / "strategies" / "test_fedx.py", 3, "")])
    '[formula](../tests/strategies/test_fedx.py)'
    """
    found: dict[tuple[str, Path], int] = {}
    for test in tests:
        found[test.by, test.file] = found.get((test.by, test.file), 0) + 1
    links = {key: f"../{key[1].relative_to(ROOT).as_posix()}" for key in found}
    return ", ".join(f"[{by}{f' {many}' if many > 1 else ''}]({links[by, file]})" for (by, file), many in found.items())


def sentences(name: str, tests: Iterable[Recomputed]) -> str:
    """The tests of a row, as their names say it."""
    mine = [f"{test.says} ({test.by})" for test in tests if test.name == name]
    return f"`{name}`: {'; '.join(mine)}." if mine else ""


def counted(evidence: Iterable[Evidence], tests: Iterable[Recomputed]) -> str:
    """How many rows of each kind have what."""
    verified = {each.name for each in evidence if each.verdict.startswith(VERIFIED)}
    tested = {test.name for test in tests}
    lines = []
    for kind, group in rows().items():
        held, seen = verified & {*group}, tested & {*group}
        lines.append((kind, *(str(len(part)) for part in (group, held, seen, {*group} - held - seen))))
    return table(("", "rows", "verified beside other code", "recomputed by tests", "neither"), lines)


HEADING = f"""# Verified

What fedkd's numbers were held against. `python docs/verified.py` writes this page from committed results and from the tests;
nobody types a row. Rows are what the package has, so that what was compared with nothing stands here too.

Three questions are kept apart:

- **Does it compute what it says?** The column "recomputed": tests that compare it with its formula written anew, with numbers
  worked out by hand, or with numbers of other code; [their names](#what-tests-recompute) say what they compare. And rows that
  compare it with a copy of other code on the same random tensors (`python benchmarks/against_official.py`): "verified" is a
  largest difference of at most {SAME:.0e} of the largest number, gradients included. Of a strategy such a row speaks of the
  part that it names, not of the whole.
- **Does it reach what others reach?** Rows with an accuracy of other code, run side by side: "verified" is a difference whose
  95 % interval, taken seed by seed and at most {WIDE:g} points to each side, holds 0.
- **Does it help?** Rows with points gained, here and where others say so. Their settings are larger than ours, so such a row is
  never "verified". "Loses here" of a method that computes what it says means too small a setting, or no help; which of both
  stays open until it was run in theirs. The pages that a number links to say when and how it was measured.

Intervals are 95 % t intervals, over seeds or, of what others say, over their settings. A verdict is "verified", "differs
because" or "not verified"; of a loss, target or reduction that only tests recompute, "verified by tests". Strategies do
not get that one, as a test recomputes a part of them."""

KINDS = "As the names of the tests say it. " + "; ".join(f'"{kind}": {meaning}' for kind, meaning in BY.items()) + "."


def main() -> None:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where the page is old")
    given = parser.parse_args()
    try:
        text = verified_page()
    except InputError as error:
        parser.exit(2, f"{error}\n")
    if given.check:
        old = not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text
        parser.exit(int(old), f"{PAGE.name} is old: run python docs/verified.py\n" if old else f"{PAGE.name} is up to date\n")
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
