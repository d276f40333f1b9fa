"""Commands that list what an experiment may name: its keys, strategies, losses, targets."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from fedkd.base.errors import InputError, unknown
from fedkd.cli.tables import WIDTH, print_table

if TYPE_CHECKING:
    from fedkd.experiment.keys import Key

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def strategies(
    name: Annotated[str | None, typer.Argument(help="One strategy, to be shown whole.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """List the strategies: what travels, and what they need; or show the one called NAME whole."""
    from fedkd.experiment.registry import strategies

    if name is not None:
        _show_strategy(name, as_json)
        return
    rows = [
        {"name": name, "paper": cls.paper, "sends": cls.sends, "needs": str(cls.needs)} for name, cls in strategies().items()
    ]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    print_table([{key: value for key, value in row.items() if key != "paper"} for row in rows], sys.stdout, width=WIDTH)
    print("\nfedkd strategies NAME shows one whole: its paper, its keys, where it deviates.")


def keys(
    section: Annotated[
        str | None, typer.Argument(help="A section, such as train; or one key, data.clients.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the keys of the experiment file: default, range, meaning. Those of one SECTION, or all."""
    from fedkd.experiment.keys import experiment_keys

    found = experiment_keys()
    chosen = [key for key in found if section in (None, key.section, key.path)]
    if section == "strategy":
        raise InputError("each strategy has keys of its own: see `fedkd strategies NAME`")
    if not chosen and section is not None:
        raise unknown("section", section, [*dict.fromkeys(key.section for key in found), *(key.path for key in found)])
    if as_json:
        print(json.dumps([{**vars(key), "path": key.path} for key in chosen], indent=1))
    else:
        print_table([{"key": key.path, **_described(key)} for key in chosen], sys.stdout, width=WIDTH)


def losses(as_json: AsJson = False) -> None:
    """List the losses that `strategy.loss` takes: function, what they need, usual weight, options."""
    from fedkd.losses.distillers import DISTILLERS

    rows = [
        {
            "name": name,
            "function": recipe.loss.__name__,
            "needs": ", ".join(sorted(recipe.needs)),
            "weight": f"{recipe.weight:g}",
            "options": ", ".join(recipe.option_names),
        }
        for name, recipe in DISTILLERS.items()
    ]
    _show(rows, as_json)


def targets(as_json: AsJson = False) -> None:
    """List the ensemble targets that `strategy.target` takes, and what they need beside the teachers' logits."""
    from fedkd.targets import RULES

    _show([{"name": name, "needs": ", ".join(sorted(rule.needs))} for name, rule in RULES.items()], as_json)


def _show_strategy(name: str, as_json: bool) -> None:
    from fedkd.cli.prose import blocks
    from fedkd.experiment.keys import strategy_keys
    from fedkd.experiment.registry import load

    cls = load(name)
    own = strategy_keys(cls)
    facts = {"name": name, "paper": cls.paper, "sends": cls.sends, "needs": str(cls.needs)}
    if as_json:
        print(json.dumps({**facts, "description": cls.__doc__ or "", "keys": [vars(key) for key in own]}, indent=1))
        return
    for fact, value in facts.items():
        print(f"{fact + ':':<7} {value}")
    for block in blocks(cls.__doc__ or ""):
        print("", *block.lines(WIDTH), sep="\n")
    print("\n[strategy]")
    print_table(list(_rows(own)), sys.stdout, width=WIDTH) if own else print("no keys but its name")


def _rows(own: Iterable[Key]) -> Iterable[dict[str, str]]:
    return ({"key": key.name, **_described(key)} for key in own)


def _described(key: Key) -> dict[str, str]:
    return {"default": key.default, "range": key.range, "meaning": key.meaning}


def _show(rows: list[dict[str, str]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        print_table(rows, sys.stdout)
