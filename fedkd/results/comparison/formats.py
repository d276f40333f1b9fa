"""A comparison as a file: numbers as CSV or JSON, tables of text as Markdown or LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from fedkd.base.errors import InputError
from fedkd.results.comparison.comparison import Comparison, Sample
from fedkd.results.comparison.readings import Reached
from fedkd.results.comparison.tables import NOT_ALWAYS, Table, tables_of
from fedkd.results.files import plain, write_atomically, writing

#: The columns of the CSV file: one line a number, empty where it has no such thing.
COLUMNS = (
    *("group", "against", "quantity", "seeds", "of_seeds", "mean"),
    *("student_low", "student_high", "bootstrap_low", "bootstrap_high", "p", "p_holm", "verdict"),
)


def write_comparison(comparison: Comparison, path: Path) -> Path:
    """Write a comparison in the format of the file's suffix. Raises InputError for another one, or for one that cannot be."""
    check_suffix(path)
    with writing(path, InputError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, _FORMATS[path.suffix](comparison))
    return path


def check_suffix(path: Path) -> None:
    """Raise InputError unless there is a format for this file's suffix."""
    if path.suffix not in _FORMATS:
        raise InputError(f"--out {path}: the suffix says the format, and is one of {', '.join(_FORMATS)}")


def to_json(comparison: Comparison) -> dict[str, Any]:
    """All numbers, nested, as strict JSON has them: shares from 0 to 1, NaN as null."""
    found: dict[str, Any] = plain(asdict(comparison))
    return found


def to_csv(comparison: Comparison) -> str:
    """All numbers, one a line: shares from 0 to 1, bytes, seconds."""
    text = io.StringIO()
    lines = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    lines.writeheader()
    lines.writerows(_lines(comparison))
    return text.getvalue()


def _lines(comparison: Comparison) -> Iterator[dict[str, object]]:
    names = {"last": "last", "best": "best", "mean": f"mean_of_last_{comparison.last_k}"}
    for group in comparison.groups:
        for name, sample in group.readings.items():
            yield _line(group.label, f"{comparison.metric}_{names[name]}", sample)
        for name, sample in group.clients.items():
            yield _line(group.label, f"clients_{name}", sample)
        there = [each for each in group.reached.values() if each]
        for name in [field.name for field in fields(Reached)] if group.reached else ():
            values = [value for each in there if (value := getattr(each, name)) is not None]
            whole = len(values) == len(group.reached)  # no mean of some seeds alone
            line = _line(group.label, f"{name}_to_target", Sample.of(values)) if whole else {}
            if values or name not in NOT_ALWAYS:
                named = {"group": group.label, "quantity": f"{name}_to_target"}
                yield {**named, **line, "seeds": len(values), "of_seeds": len(group.reached)}
    for each in comparison.differences:
        paired, what = each.paired, f"{comparison.metric}_{names[comparison.reading]}_difference"
        words = {"group": each.group, "against": each.against, "quantity": what, "verdict": each.verdict}
        numbers = {"mean": paired.mean, "student_low": paired.low, "student_high": paired.high, "p": paired.p}
        yield {**words, "seeds": paired.seeds, **_without_nan({**numbers, "p_holm": each.p_holm})}


def _line(group: str, quantity: str, sample: Sample) -> dict[str, object]:
    count, student, bootstrap = len(sample.values), sample.student, sample.bootstrap
    numbers = {"mean": student.mean, "student_low": student.low, "student_high": student.high}
    numbers |= {"bootstrap_low": bootstrap.low, "bootstrap_high": bootstrap.high}
    return {"group": group, "quantity": quantity, "seeds": count, "of_seeds": count, **_without_nan(numbers)}


def _without_nan(numbers: Mapping[str, float]) -> dict[str, object]:
    return {name: value for name, value in numbers.items() if value == value}


def to_markdown(tables: Sequence[Table]) -> str:
    """Tables of text in Markdown.

    >>> print(to_markdown([Table("accuracy", [{"group": "a|b", "last": "0.5"}], ["mind the gap"])]))
    **accuracy**
    <BLANKLINE>
    | group | last |
    |---|---|
    | a\\|b | 0.5 |
    <BLANKLINE>
    - mind the gap
    <BLANKLINE>
    """
    parts = []
    for table in tables:
        lines = [f"**{table.title}**", "", _bar(table.rows[0].keys()), "|" + "---|" * len(table.rows[0])]
        lines += [_bar(row.values()) for row in table.rows]
        parts.append("\n".join([*lines, "", *(f"- {note}" for note in table.notes)]))
    return "\n\n".join(parts) + "\n"


def _bar(cells: Iterator[str] | Any) -> str:
    return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def to_latex(tables: Sequence[Table]) -> str:
    """Tables of text in LaTeX with the rules of booktabs; every letter of the text stands for itself."""
    parts = ["% needs \\usepackage{booktabs}"]
    for table in tables:
        columns = "l" + "r" * (len(table.rows[0]) - 1)
        body = [_latex_row(row.values()) for row in table.rows]
        notes = [f"\\par\\footnotesize {escaped(note)}" for note in table.notes]
        lines = ["\\begin{table}", "\\centering", f"\\caption{{{escaped(table.title)}}}", f"\\begin{{tabular}}{{{columns}}}"]
        lines += ["\\toprule", _latex_row(table.rows[0].keys()), "\\midrule", *body, "\\bottomrule", "\\end{tabular}"]
        parts.append("\n".join([*lines, *notes, "\\end{table}"]))
    return "\n\n".join(parts) + "\n"


def _latex_row(cells: Any) -> str:
    return " & ".join(map(escaped, cells)) + r" \\"


#: A letter -> how LaTeX's text writes it.
_LATEX = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "\N{MINUS SIGN}": "$-$",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    "[": "{[}",
    "]": "{]}",
    "\n": " ",
}


def escaped(text: str) -> str:
    """Text as LaTeX prints it: brackets too, which behind a line's end would be taken for its options.

    >>> print(escaped("fedmd_nfdp (50 %) 81.0 ± 2.5"))
    fedmd\\_nfdp (50 \\%) 81.0 $\\pm$ 2.5
    """
    minus = re.sub(r"(?<!\w)-(?=\d)", "\N{MINUS SIGN}", str(text))  # of numbers, not the hyphen of a name
    return "".join(_LATEX.get(letter, letter) for letter in minus)


_FORMATS: dict[str, Callable[[Comparison], str]] = {
    ".csv": to_csv,
    ".md": lambda comparison: to_markdown(tables_of(comparison)),
    ".tex": lambda comparison: to_latex(tables_of(comparison)),
}
