"""What the run's algorithm is, in its own words: teacher rule, losses, temperature, deviations from the paper."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

from fedkd.base.errors import InputError
from fedkd.results.identity import read_code
from fedkd.results.recorded import RecordedRun

#: What begins a paragraph of a strategy's docstring, and the term under which the card has it.
PARAGRAPHS = {"Paper": "Paper", "What travels": "What travels", "Deviations": "Deviations"}
#: Modules whose functions an algorithm teaches by, and what the card calls them.
SHELVES = {
    "fedkd.targets": "Teacher's target",
    "fedkd.aggregate": "Aggregation",
    "fedkd.losses": "Loss",
}

#: Loss -> from which distribution to which its divergence goes.
DIRECTIONS = {
    "kd_loss": "kd_loss: KL(teacher || student), towards all that the teacher thinks possible",
    "soft_cross_entropy": "soft_cross_entropy: as KL(target || student), whose gradient it has",
    "not_true_loss": "not_true_loss: KL(teacher || student) over all classes but the true one",
    "label_masking_loss": "label_masking_loss: KL(teacher without the majority || student) over all classes but the true one",
    "logit_mae": "logit_mae: none; logits themselves are compared",
    "logit_mse": "logit_mse: none; logits themselves are compared",
}


def told_of(run: RecordedRun) -> Iterator[tuple[str, str]]:
    """The algorithm's part of the card, as (term, description) pairs. Code of a user's is read, and never run."""
    name = run.strategy
    yield "Algorithm", name
    keys = {key.removeprefix("strategy."): value for key, value in run.experiment.items() if key.startswith("strategy.")}
    if ":" in name or (cls := shipped(name)) is None:
        text = read_code(run.path).get("strategy.py", "")
        yield from described(*_docstrings(text))
    else:
        methods = {each: inspect.getdoc(getattr(cls, each)) or "" for each in ("client_update", "server_update")}
        yield from described(inspect.getdoc(cls) or "", methods)
        yield from losses_of(cls, keys)
    given = ", ".join(f"{key} {value}" for key, value in keys.items() if key != "name")
    yield "Its settings", given or "none beside its name"


@cache
def shipped(name: str) -> type | None:
    """The class of a strategy that is installed; None where there is none of this name, or it cannot be loaded."""
    from fedkd.experiment.registry import load

    try:
        return load(name)
    except (InputError, ImportError):
        return None


def described(doc: str, methods: dict[str, str]) -> Iterator[tuple[str, str]]:
    """A docstring's paragraphs by their terms, and what the two halves of the algorithm do."""
    flowing = _plain(re.sub(r"\s+", " ", doc))
    found = re.split(r"(?:(?<=\. )|(?<=\.)|^)\s?(Paper|What travels|Deviations)[^:.]{0,60}: ", flowing)
    if found[0]:
        yield "In short", found[0].strip()
    for term, text in zip(found[1::2], found[2::2], strict=True):
        yield PARAGRAPHS[term], text.strip()
    if "Deviations" not in found[1::2] and flowing:
        yield "Deviations", "its author names none"
    for method, term in (("server_update", "Teacher rule, at the server"), ("client_update", "At a client")):
        if said := _first_paragraph(methods.get(method, "")):
            yield term, said


def losses_of(cls: type, keys: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The functions by which an algorithm distils and aggregates: the first lines of what they say of themselves."""
    used = {value for value in vars(sys.modules[cls.__module__]).values() if inspect.isfunction(value)}
    shown: dict[str, Any] = {}
    for function in sorted(used, key=lambda each: each.__name__):
        shelf = next((shelf for shelf in SHELVES if function.__module__.startswith(shelf)), "")
        if shelf and not function.__module__.startswith("fedkd.losses.distillers"):
            shown[f"{SHELVES[shelf]}, {function.__name__}"] = function
    if isinstance(named := keys.get("loss"), str) and (function := _named_loss(named)) is not None:
        shown[f"Loss, {named} ({function.__name__})"] = function
    for term, function in shown.items():
        yield term, _with_formula(inspect.getdoc(function) or "")
    temperatures = {key: value for key, value in keys.items() if "temperature" in key}
    said = ", ".join(f"{key} {value}" for key, value in temperatures.items()) or "1: nothing is softened by a setting"
    yield "Temperature T", said
    texts = " ".join(inspect.getdoc(function) or "" for term, function in shown.items() if term.startswith("Loss"))
    squared = "T^2" in texts and bool(temperatures)
    directions = [DIRECTIONS[function.__name__] for term, function in shown.items() if function.__name__ in DIRECTIONS]
    yield "KL direction", "; ".join(dict.fromkeys(directions)) or "as the formulas above have it"
    yield (
        "T squared",
        (
            "the loss named above is multiplied by it, so that gradients keep their size whatever T is"
            if squared
            else "no factor"
        ),
    )


def _named_loss(name: str) -> Any:
    from fedkd.losses.distillers import DISTILLERS

    return DISTILLERS[name].loss if name in DISTILLERS else None


def _with_formula(doc: str) -> str:
    """The first paragraph, and the formula that it leads to, on one line."""
    first, _, rest = doc.partition("\n\n")
    formula = rest.partition("\n\n")[0] if first.rstrip().endswith("::") else ""
    return _plain(" ".join(f"{first.rstrip().removesuffix('::')}{': ' if formula else ''}{formula}".split()))


def _plain(text: str) -> str:
    return text.replace("``", "").strip()


def _first_paragraph(doc: str) -> str:
    return _plain(" ".join(inspect.cleandoc(doc).partition("\n\n")[0].split()))


def _docstrings(code: str) -> tuple[str, dict[str, str]]:
    """Of a strategy's recorded source: the docstring of the class that has both halves, and those of the halves."""
    try:
        classes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ClassDef)]
    except SyntaxError:
        return "", {}
    for node in classes:
        methods = {each.name: ast.get_docstring(each) or "" for each in node.body if isinstance(each, ast.FunctionDef)}
        if "server_update" in methods:
            return ast.get_docstring(node) or "", methods
    return "", {}
