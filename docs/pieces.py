"""What generated pages are made of: Markdown of tables, keys and docstrings."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from fedkd.cli.prose import blocks
from fedkd.experiment.keys import Key


def page(*parts: str) -> str:
    """A page of these parts."""
    return "\n\n".join(part for part in parts if part) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(escaped(cell) for cell in line) + " |" for line in lines)


def escaped(cell: str) -> str:
    """A cell's text: bars would end it. What stands in code marks stays code."""
    return cell.replace("``", "`").replace("|", "\\|").replace("\n", " ")


def keys_table(keys: Iterable[Key], *, example: bool) -> str:
    """Keys with default, range, meaning and, where the models give one, an example."""
    head = ("key", "default", "range", "meaning", *(("example",) if example else ()))
    rows = []
    for key in keys:
        shown = f"`{key.name} = {key.example}`" if key.example else ""
        rows.append((f"`{key.name}`", f"`{key.default}`", key.range, key.meaning, *((shown,) if example else ())))
    return table(head, rows)


def listed(names: Iterable[str]) -> str:
    """Names in code marks, with commas."""
    return ", ".join(f"`{name}`" for name in names)


def prose(text: str, *, headings: bool = False) -> str:
    """A docstring as Markdown: formulas become code, and with ``headings`` its parts get one each."""
    parts = []
    for block in blocks(text):
        if block.verbatim:
            parts.append(f"```text\n{inspect.cleandoc(block.text)}\n```")
            continue
        heading = re.match(r"(Papers?|What travels|Deviations?)\b", block.text) if headings else None
        parts += [f"## {heading[1]}"] if heading else []
        body = re.sub(r"^(Papers?|What travels|Deviations?):\s*", "", block.text) if heading else block.text
        body = body[0].upper() + body[1:] if heading else body
        parts.append(re.sub(r"::$", ":", body.replace("``", "`")))
    return "\n\n".join(parts)


def first_line(thing: Any) -> str:
    """The first paragraph of a docstring."""
    return next((block.text for block in blocks(inspect.getdoc(thing) or "")), "")


def parameters(text: str) -> dict[str, str]:
    """Parameter -> meaning, of a docstring in our form or in NumPy's.

    >>> parameters("A\\n\\nArgs:\\n    size: how\\n        large.\\n    name: whose.")
    {'size': 'how large.', 'name': 'whose.'}
    >>> parameters("A\\n\\nParameters\\n----------\\nsize : int\\n    How large.")
    {'size': 'How large.'}
    """
    if ours := re.search(r"^Args:\n((?:    .*\n?|\n)+)", text, re.MULTILINE):
        found = re.findall(r"^    (\w+): ((?:.*\n?)(?:^        .*\n?)*)", ours[1], re.MULTILINE)
    else:
        section = re.search(r"^Parameters\n-+\n(.*?)(?=^\w+\n-+\n|\Z)", text, re.MULTILINE | re.DOTALL)
        entry = r"^(\w+)\s*:[^\n]*\n((?:[ \t]+[^\n]*\n?|\n)+)"
        found = re.findall(entry, section[1] if section else "", re.MULTILINE)
    return {name: " ".join(meaning.split()) for name, meaning in found}


def documented(module: str, names: Iterable[str]) -> str:
    """Functions, classes and values of a module by their docstrings."""
    made = {name: getattr(sys.modules[module], name) for name in names}
    kinds = {name: "class" if inspect.isclass(thing) else "function" for name, thing in made.items() if callable(thing)}
    return "\n\n".join(auto(kind, f"{module}.{name}") for name, kind in kinds.items())


def auto(kind: str, path: str, *options: str) -> str:
    """What Sphinx makes of a docstring."""
    return "\n".join(["```{eval-rst}", f".. auto{kind}:: {path}", *(f"   {option}" for option in options), "```"])
