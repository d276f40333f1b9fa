"""fedkd new: a small Flower app to begin with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from fedkd.base.errors import InputError
from fedkd.cli.filled import write_filled

#: Where each template goes; ``{package}`` is the name of the app as Python has it.
FILES = {
    "pyproject.toml.txt": "pyproject.toml",
    "README.md.txt": "README.md",
    "net.py.txt": "{package}/net.py",
    "data.py.txt": "{package}/data.py",
    "apps.py.txt": "{package}/apps.py",
    "test_app.py.txt": "tests/test_app.py",
}


def new(
    name: Annotated[str, typer.Argument(help="The app's name; a directory of this name is made here.", show_default=False)],
    publisher: Annotated[str, typer.Option(help="Who publishes it, as Flower asks to know.")] = "me",
) -> None:
    """Write a small Flower app: a net, data, settings, a test. It runs under fedkd run, Flower's simulation and a SuperLink."""
    place = write_app(Path(name), publisher)
    print(f"{place}: a net, data, settings and a test. Next:")
    print(f"  cd {place}")
    print("  fedkd run pyproject.toml --set rounds=3")
    print("README.md there says how it runs on Flower.")


def write_app(place: Path, publisher: str) -> Path:
    """Write the app into a new directory, and give it.

    Raises:
        InputError: a name that no project or no package may have, or a directory that is there already.
    """
    name = place.name
    if not re.fullmatch(r"[A-Za-z]([A-Za-z0-9_-]{0,48}[A-Za-z0-9])?", name):
        raise InputError(f"NAME: {name!r} is no name for a project: take letters, digits and hyphens, a letter first")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", publisher):
        raise InputError(f"--publisher: {publisher!r}: take letters, digits and hyphens")
    package = name.replace("-", "_").lower()
    if package in ("fedkd", "flwr", "tests", "torch"):
        raise InputError(f"NAME: a package {package!r} is there already: take another name")
    words = {"name": name.lower(), "package": package, "publisher": publisher, "out": f"/tmp/{name.lower()}"}
    files = {template: path.format(package=package) for template, path in FILES.items()}
    return write_filled("app", files, words, place, contents={f"{package}/__init__.py": b""})
