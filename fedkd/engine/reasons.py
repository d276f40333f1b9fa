"""Why a client failed, as text. It may come from strangers, so it is bounded and safe to show on a terminal."""

from __future__ import annotations

#: Characters of a reason that clients.jsonl keeps, and of its first line in the round's row.
MOST, SHOWN = 20_000, 500


def clipped(reason: str) -> str:
    """The reason, its middle left out where it is long: the cause of a traceback stands at its ends."""
    reason = reason[: 2 * MOST].strip() if len(reason) < 2 * MOST else f"{reason[:MOST]} ... {reason[-MOST:]}"
    return reason if len(reason) <= MOST else f"{reason[: MOST // 2]} ... {reason[-MOST // 2 :]}"


def in_words(error: Exception) -> str:
    """What an error says, in one line; its kind too where the message alone says little."""
    line = first_line(str(error))
    return line if isinstance(error, ValueError) else f"{type(error).__name__}: {line}"


def first_line(reason: str) -> str:
    """The first line of a reason, without control characters; the whole of it stands in clients.jsonl.

    >>> first_line("no disk\\x1b[2J\\nTraceback ..."), first_line("")
    ('no disk?[2J', 'no reason given')
    """
    line = next(iter(reason[:MOST].splitlines()), "") or "no reason given"
    shown = "".join(letter if letter.isprintable() else "?" for letter in line[:SHOWN])
    return shown + (" ..." if len(line) > SHOWN else "")
