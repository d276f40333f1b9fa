"""Docstrings as blocks: paragraphs, whose lines may be broken anew, and formulas, whose lines may not."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import final

#: What begins a paragraph of a strategy's docstring though no empty line stands before it.
BEGINS = re.compile(r"(Papers?|What travels|Deviations?)\b[^:.]{0,60}[:.]")


@final
@dataclass(frozen=True)
class Block:
    """A paragraph on one line, or, ``verbatim``, lines as they were written."""

    text: str
    verbatim: bool = False

    def lines(self, width: int) -> list[str]:
        """The block in lines of at most so many characters; a formula may be wider."""
        return self.text.splitlines() if self.verbatim else textwrap.wrap(self.text, width)


def blocks(text: str) -> Iterator[Block]:
    """The blocks of a docstring.

    >>> [block.text for block in blocks("One line.\\n\\n    Paper: none.\\n    What travels: nothing\\n    at all.")]
    ['One line.', 'Paper: none.', 'What travels: nothing at all.']
    """
    block: Block | None = None
    for line in re.sub(r"(?<=\.) (?=Deviations?\b)", "\n", inspect.cleandoc(text)).splitlines():
        verbatim = line.startswith("    ")
        follows = block is not None and block.verbatim == verbatim and not (BEGINS.match(line) and not verbatim)
        if block is not None and line.strip() and follows:
            block = replace(block, text=f"{block.text}\n{line}" if verbatim else f"{block.text} {line}")
            continue
        if block is not None:
            yield block
        block = Block(line, verbatim) if line.strip() else None
    if block is not None:
        yield block
