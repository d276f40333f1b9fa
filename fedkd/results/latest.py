"""``runs/latest``: where the run stands that began, or went on, last. A help for whoever types; no run rests on it."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from fedkd.base.errors import InputError

#: The folder below which it is kept, and its name there.
RUNS, LATEST = "runs", "latest"


def point_at(run: Path) -> None:
    """Lead ``runs/latest`` to this run, if it lies below a folder called ``runs``: in one step, whoever else does so now.

    It is a link, or, where the system allows none, a file of one line. Whatever goes wrong, the run goes on without it.
    """
    place = run.absolute()
    folder = next((each for each in place.parents if each.name == RUNS), None)
    if folder is None:
        return
    leads_to, beside = place.relative_to(folder).as_posix(), folder / f".{LATEST}-{secrets.token_hex(4)}"
    with suppress(OSError, NotImplementedError):
        if (folder / LATEST).is_dir() and not (folder / LATEST).is_symlink():
            return  # somebody's own directory
        try:
            beside.symlink_to(leads_to, target_is_directory=True)
        except (OSError, NotImplementedError):
            beside.write_text(leads_to + "\n", encoding="utf-8")
        try:
            beside.replace(folder / LATEST)
        finally:
            beside.unlink(missing_ok=True)


def run_at(path: Path) -> Path:
    """The run that a path means: where it is ``latest`` as a file, the one that this leads to; else the path itself.

    A link is followed, so that what is printed names the run. Raises InputError where there is no latest run.
    """
    if path.name != LATEST:
        return path
    if path.is_file():
        return path.parent / path.read_text(encoding="utf-8").strip()
    if path.is_symlink() and path.is_dir():
        return path.parent / os.readlink(path)
    if path.is_dir():
        return path
    raise InputError(f"no {path}, as no run was made in {path.parent} yet or the last one is gone: give the directory of a run")
