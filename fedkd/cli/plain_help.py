"""The help of a command, as plain text."""

from __future__ import annotations

from typing import final

from click import Context
from typer.core import TyperCommand


@final
class PlainCommand(TyperCommand):
    """A command whose help says [required], not \\[required]: typer escapes brackets for rich even where rich is off."""

    def get_help(self, ctx: Context) -> str:
        """The help, as it is shown."""
        return super().get_help(ctx).replace("\\[", "[")
