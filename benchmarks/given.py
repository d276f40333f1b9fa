"""What users type: read once, so that a slip ends with one line before anything runs."""

from __future__ import annotations

from argparse import ArgumentTypeError
from pathlib import Path


def positive(text: str) -> int:
    """A whole number from 1 on.

    >>> positive("2")
    2
    """
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r}: write a whole number from 1 on")
    return int(text)


def cifar10_folder(text: str) -> str:
    """A folder that holds CIFAR-10; empty for none, and then the hub is asked."""
    for name in ("train.parquet", "test.parquet") if text else ():
        if not (Path(text) / name).is_file():
            raise ArgumentTypeError(f"{text}: no {name} there: name the folder that holds it, or leave this out to ask the hub")
    return text
