"""Trackio, on this machine, in its own store (``TRACKIO_DIR``): ``trackio show --project fedkd`` shows all runs."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

from fedkd.results.sinks.sink import About, Sink, numbers


@final
class Writer(Sink):
    """One Trackio run of the project "fedkd"; seeds of one experiment are a group."""

    needs: ClassVar[str] = "trackio"
    extra: ClassVar[str] = "fedkd[trackio]"

    def __init__(self, about: About) -> None:
        import trackio

        with contextlib.redirect_stdout(io.StringIO()):  # it prints how to show it
            self._run = trackio.init(
                project="fedkd",
                name="/".join(about.path.resolve().parts[-2:]),
                group=about.group,
                config=dict(about.experiment),
                resume="never" if about.done < 0 else "allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def write(self, row: Mapping[str, Any], clients: Sequence[Mapping[str, Any]]) -> None:
        """One step."""
        self._run.log(numbers(row), step=row["round"])

    def close(self) -> None:
        """Write what is left."""
        with contextlib.redirect_stdout(io.StringIO()):
            self._run.finish()
