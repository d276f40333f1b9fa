"""What to say when a name is not known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from fedkd.errors import InputError


def unknown(what: str, name: str, known: Iterable[str], *, cure: str = "") -> InputError:
    """The error for a name that is none of the known ones, with the nearest of them.

    >>> print(unknown("data.partition", "dirchlet", ["iid", "dirichlet"]))
    unknown data.partition 'dirchlet': did you mean 'dirichlet'? Known: dirichlet, iid
    """
    names = sorted(known)
    near = get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return InputError(f"unknown {what} {name!r}: {hint}Known: {', '.join(names) or 'none'}{cure}")
