"""fedkd replay: what the server would have broadcast, had it put a round's uploads together in another way."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedkd.base.errors import InputError

if TYPE_CHECKING:
    from fedkd.engine.replay.replay import Replayed


def replay(
    run: Annotated[Path, typer.Argument(help="The directory of a run with record.uploads = true.", show_default=False)],
    aggregator: Annotated[
        str, typer.Option(help="mean, median, trimmed_mean, geometric_median or spectral_filter, over all uploads.")
    ] = "",
    target: Annotated[str, typer.Option(help="An ensemble's target, of tables of answers: see `fedkd targets`.")] = "",
    codec: Annotated[str, typer.Option(help="Codecs of uploads, as top3 or float16,deflate.")] = "",
    downlink: Annotated[str, typer.Option(help="Codecs of the broadcast.")] = "",
    rounds: Annotated[str, typer.Option("--round", metavar="N|all", help="Which round.", show_default="the last")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Put RUN's uploads through another aggregator, target or codec: what the broadcast would have been, offline.

    Without an option: the broadcasts as they were, made again.
    """
    from fedkd.cli.tables import print_table
    from fedkd.engine.replay.changes import Change
    from fedkd.engine.replay.replay import replay as made_again

    change = Change(aggregator, target, _names(codec), _names(downlink))
    found = made_again(run, change, _rounds(rounds))
    if as_json:
        print(json.dumps([each.to_json() for each in found], indent=1))
        return
    print_table([row(each) for each in found], sys.stdout)
    if whose := found[0].accuracy_of:
        print(f"accuracy: {whose}; in brackets what was broadcast, and the bytes that it took")


def row(each: Replayed) -> dict[str, str]:
    """One broadcast in words, what it was in brackets."""
    from fedkd.results.statistics import size

    exchange = f"{each.round}.{each.exchange}" if each.exchange else str(each.round)
    agreeing = {} if each.agreement is None else {"same class": _percent(each.agreement)}
    now, then = each.bytes, each.bytes_then
    return {
        "round": exchange,
        "clients": str(each.clients),
        "accuracy": f"{_percent(each.accuracy)} ({_percent(each.accuracy_then)})",
        **agreeing,
        "difference": f"{each.difference:.3g}",
        "up, all": f"{size(now.coded_up)} ({size(then.coded_up)}), raw {size(now.up)}",
        "down, each": f"{size(now.coded_down)} ({size(then.coded_down)}), raw {size(now.down)}",
    }


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in (part.strip() for part in text.split(",")) if name)


def _rounds(text: str) -> list[int] | None:
    """None: the last. Empty: all."""
    if not text or text == "all":
        return [] if text else None
    if not text.isascii() or not text.isdecimal():
        raise InputError(f"--round {text}: give the number of a round, or all")
    return [int(text)]
