"""Which tests compare with something independent: they bear the mark ``recomputed``, and are found without being run.

    @pytest.mark.recomputed("fedx", by="formula")

names what is compared, and by what: see ``BY``.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from fedkd.base.errors import InputError, did_you_mean

ROOT = Path(__file__).parents[1]
#: What a test may compare with, and what that means.
BY = {
    "formula": "the definition, written anew in the test: in loops, by joint autograd, by conditions of optimality; that of a "
    "strategy may be put together of losses that have a row of their own",
    "hand": "numbers worked out by hand",
    "code": "numbers that somebody else's code gave for the same input",
}


@dataclass(frozen=True)
class Recomputed:
    """A test that bears the mark: what it is about, what it compares with, where it stands, and its name as a sentence."""

    name: str
    by: str
    file: Path
    line: int
    says: str


def recomputed(folder: Path, known: Collection[str]) -> list[Recomputed]:
    """Every mark in the tests below a folder.

    Raises:
        InputError: a mark names what is not there, compares with nothing of ``BY``, or stands on a test that asserts nothing.
    """
    return [found for file in sorted(folder.rglob("test_*.py")) for found in _marks(file, known)]


def _marks(file: Path, known: Collection[str]) -> Iterator[Recomputed]:
    for test in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(test, ast.FunctionDef):
            continue
        for mark in test.decorator_list:
            if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.recomputed":
                where = f"{file.relative_to(ROOT) if file.is_relative_to(ROOT) else file}, line {mark.lineno}"
                names = [ast.literal_eval(name) for name in mark.args]
                by = {word.arg: ast.literal_eval(word.value) for word in mark.keywords}.get("by", "")
                for name in names:
                    if name not in known:
                        raise InputError(
                            f"{where}: recomputed names {name!r}, which is no strategy, loss, target or reduction: "
                            f"{did_you_mean(name, sorted(known))}"
                        )
                if by not in BY or not names:
                    raise InputError(f'{where}: write recomputed("NAME", by="KIND"); KIND is one of {", ".join(BY)}')
                if not any(_asserts(part) for part in ast.walk(test)):
                    raise InputError(f"{where}: {test.name} asserts nothing, so it recomputes nothing: take the mark off")
                says = test.name.removeprefix("test_").replace("_", " ")
                yield from (Recomputed(name, by, file, test.lineno, says) for name in names)


def _asserts(part: ast.AST) -> bool:
    """An assert, or a call of something like ``torch.testing.assert_close``."""
    return isinstance(part, ast.Assert) or (
        isinstance(part, ast.Call) and ast.unparse(part.func).split(".")[-1].startswith("assert_")
    )
