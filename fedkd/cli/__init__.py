"""The command."""

from fedkd.cli.commands import main

__all__ = ["main"]
