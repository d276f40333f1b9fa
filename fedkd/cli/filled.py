"""Directories written from templates."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from types import MappingProxyType

from fedkd.base.errors import InputError
from fedkd.results.files import writing


def write_filled(
    kind: str,
    templates: Mapping[str, str],
    words: Mapping[str, str],
    place: Path,
    *,
    contents: Mapping[str, bytes] = MappingProxyType({}),
    private: Sequence[str] = (),
) -> Path:
    """Write a new directory from templates, whole or not at all.

    Args:
        kind: the folder of the templates.
        templates: a template's name -> the path of the file that becomes of it.
        words: what stands for each ``$word``; all must be there.
        place: the directory.
        contents: what other files hold.
        private: those of them that nobody but their owner may read.

    Raises:
        InputError: something is there already, or it cannot be written.
    """
    if place.exists():
        raise InputError(f"{place} is there already: name a new directory")
    with writing(place, InputError), tempfile.TemporaryDirectory(dir=place.resolve().parent, prefix=".fedkd-") as made:
        whole = Path(made) / "whole"
        for name, path in templates.items():
            text = Template((files("fedkd.cli.templates") / kind / name).read_text(encoding="utf-8")).substitute(words)
            (whole / path).parent.mkdir(parents=True, exist_ok=True)
            (whole / path).write_text(text, encoding="utf-8")
        for path, content in contents.items():
            (whole / path).parent.mkdir(parents=True, exist_ok=True)
            (whole / path).touch(0o600 if path in private else 0o644)
            (whole / path).write_bytes(content)
        shutil.move(whole, place)
    return place
