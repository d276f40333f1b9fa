"""fedkd supernode: Flower's SuperNode, kept warm."""

from __future__ import annotations

import typer


def supernode(context: typer.Context) -> None:
    """Run Flower's SuperNode so that an exchange takes a second or less. All options are those of flower-supernode.

    It looks for the next message at once and not every three seconds, and one process, started ahead, answers all messages of a
    run: Flower starts one for each, which imports torch and loads the data anew. So what an app keeps in its modules stays
    there until a run with another app comes.
    """
    from fedkd.grids.supernode.node import run_supernode

    run_supernode(context.args, preload=["fedkd.app"])
