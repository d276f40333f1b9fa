"""Run a Flower app, its ServerApp in this process and its clients on a grid."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, cast

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedkd.base.errors import InputError
from fedkd.grids.flower import server_context, server_identity
from fedkd.grids.jobs import JobGrid

NAMES = ("in-process", "together", "ray")


def make_grid(engine: str | Grid, **settings: Any) -> JobGrid:
    """The grid of this name; what is a grid already is given back.

    Args:
        engine: one of `NAMES`, or a grid; one of another kind that can be opened is welcome too.
        settings: those of ``RayGrid``. In this process there is nothing to set.

    Raises:
        InputError: it is neither.
    """
    if isinstance(engine, Grid):
        return cast(JobGrid, engine)
    if engine == "in-process":
        from fedkd.grids.in_process import InProcessGrid

        return InProcessGrid()
    if engine == "together":
        from fedkd.grids.together import TogetherGrid

        return TogetherGrid()
    if engine == "ray":
        from fedkd.grids.ray import RayGrid

        return RayGrid(**settings)
    close = get_close_matches(str(engine), NAMES, n=1, cutoff=0.4)
    hint = f'did you mean "{close[0]}"?' if close else f"use {', '.join(NAMES)}, or give a grid"
    raise InputError(f"unknown engine {engine!r:.80}: {hint}")


def run_app(
    server_app: ServerApp,
    client_app: ClientApp,
    num_supernodes: int,
    run_config: Mapping[str, Any] | None = None,
    grid: str | JobGrid = "in-process",
) -> Context:
    """Run any Flower app and return the Context of its ServerApp.

    Flower drops what the ServerApp's main returns: let it leave results in ``context``. An exception in a client
    becomes an error reply; one in the ServerApp is raised here. No global state is left behind.

    Args:
        server_app: runs in this process.
        client_app: runs on the grid, once for each message.
        num_supernodes: how many clients; node ``i`` holds ``partition-id`` ``i``.
        run_config: flat values (str, int, float, bool) that server and clients find in ``context.run_config``.
        grid: ``"in-process"``, ``"together"``, ``"ray"``, or a grid of your own settings, e.g.
            ``RayGrid(actors=8, num_gpus=0.25)``.
    """
    engine = make_grid(grid)
    context = server_context(dict(run_config or {}))
    with engine.open(client_app, num_supernodes, run_config), server_identity():
        server_app(grid=engine, context=context)
    return context
