"""Run a Flower app, its ServerApp in this process and its clients on a grid."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedkd.base.errors import InputError
from fedkd.grids.flower import server_context, server_identity
from fedkd.grids.jobs import JobGrid

NAMES = ("in-process", "ray")


def grid_named(name: str) -> JobGrid:
    """A grid with its defaults, by its name. Raises InputError on a name that is not one of `NAMES`."""
    if name == "in-process":
        from fedkd.grids.in_process import InProcessGrid

        return InProcessGrid()
    if name == "ray":
        from fedkd.grids.ray import RayGrid

        return RayGrid()
    close = get_close_matches(name, NAMES, n=1, cutoff=0.4)
    hint = f'did you mean "{close[0]}"?' if close else "there are: " + ", ".join(NAMES)
    raise InputError(f'unknown engine "{name}": {hint}')


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
        grid: ``"in-process"``, ``"ray"``, or a grid of your own settings, e.g. ``RayGrid(actors=8, num_gpus=0.25)``.
    """
    engine = grid_named(grid) if isinstance(grid, str) else grid
    context = server_context(dict(run_config or {}))
    with engine.open(client_app, num_supernodes, run_config), server_identity():
        server_app(grid=engine, context=context)
    return context
