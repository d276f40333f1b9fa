"""fedkd export: a net of a finished run, for others."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from fedkd.base.errors import InputError


def export(
    run: Annotated[Path, typer.Argument(help="The directory of a finished run.", show_default=False)],
    client: Annotated[int | None, typer.Option(min=0, help="The client whose net is meant.")] = None,
    server: Annotated[bool, typer.Option("--server", help="The server's net, or the global one.")] = False,
    net: Annotated[str, typer.Option(help="Which of its nets, where it has several.")] = "",
    round: Annotated[str, typer.Option(help="After which round: one whose checkpoint stayed, or best [default: last].")] = "",
    out: Annotated[Path | None, typer.Option(help="A new directory [default: RUN-client-N or RUN-server].")] = None,
) -> None:
    """Write a net of RUN and its model card into a new directory: safetensors, config.json, README.md."""
    if (client is None) is not server:
        raise InputError("say whose net is meant: --client NUMBER or --server, one of the two")
    from fedkd.engine.export import Choice
    from fedkd.engine.export import export as write

    name = f"{run.resolve().name}-{'server' if client is None else f'client-{client}'}"
    place = out or run.resolve().with_name(name)
    write(run, place, Choice(client, net, round))
    print(f"card:  {place / 'README.md'}")
    print(f"load:  the Python in it, in {shlex.quote(str(place))}")
