"""Flower's own SuperNode in this process, with short waits, and with an executor that starts no process for each message."""

from __future__ import annotations

import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from types import SimpleNamespace

from fedkd.base.errors import Notice
from fedkd.grids.backoff import shorten_first_backoff
from fedkd.grids.supernode.patience import SHORTEST, Patience

#: What the SuperNode starts to have its tasks carried out, by name.
EXECUTOR = "flower-superexec"
#: Between two looks for a message the SuperNode sleeps longer than this, between two for the app's answer less. In seconds.
OF_ANSWERS = 1


def run_supernode(arguments: Sequence[str], *, preload: Sequence[str] = ()) -> None:
    """Run ``flower-supernode`` with its own command line. It ends this process, as Flower does, when it is told to stop.

    Two things differ from Flower's. It looks for the next message at once and then ever less often (see ``Patience``), not
    every three seconds. And where Flower starts a process for each message, which imports torch anew, one that was started
    ahead stays for all messages of an app (see ``worker``). Both are put in place of names that one module of Flower's uses;
    where a release of Flower has them no more, its SuperNode runs as it is, and a Notice says so.

    Args:
        arguments: as ``flower-supernode`` takes them.
        preload: modules that the process imports ahead.
    """
    from flwr.supernode import start_client_internal as loop
    from flwr.supernode.cli import flower_supernode

    if {"time", "subprocess"} <= vars(loop).keys():
        vars(loop)["time"] = SimpleNamespace(sleep=_sleep_of(Patience()))
        vars(loop)["subprocess"] = SimpleNamespace(Popen=lambda command: subprocess.Popen(warm(command, preload)))
        shorten_first_backoff()
    else:
        told = "this release of Flower is built otherwise than those that fedkd knows: its SuperNode runs as it is"
        warnings.warn(told, Notice, stacklevel=2)
    sys.argv = ["flower-supernode", *arguments]
    flower_supernode()


def warm(command: Sequence[str], preload: Sequence[str]) -> list[str]:
    """The command that starts our executor in the place of Flower's, with the same arguments; another command as it is.

    >>> warm(["flower-superexec", "--insecure"], ["fedkd.app"])[1:]
    ['-m', 'fedkd.grids.supernode.executor', 'fedkd.app', '--insecure']
    """
    if command[0] != EXECUTOR:
        return list(command)
    return [sys.executable, "-m", "fedkd.grids.supernode.executor", ",".join(preload), *command[1:]]


def _sleep_of(patience: Patience) -> object:
    """What the SuperNode's loop sleeps by: while an answer is awaited, something is happening."""

    def sleep(seconds: float) -> None:
        if seconds < OF_ANSWERS:
            patience.reset()
            time.sleep(min(seconds, SHORTEST))
        else:
            patience.sleep(seconds)

    return sleep
