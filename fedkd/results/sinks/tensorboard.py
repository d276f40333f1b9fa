"""TensorBoard: event files in ``tensorboard/`` of the run. Look at all runs with ``tensorboard --logdir runs``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

from fedkd.results.sinks.sink import About, Sink, numbers


@final
class Writer(Sink):
    """Curves of the row's numbers, and of each number the clients' as a histogram."""

    needs: ClassVar[str] = "tensorboard"
    extra: ClassVar[str] = "fedkd[tensorboard]"

    def __init__(self, about: About) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purged = about.done + 1 if about.done >= 0 else None  # rows that were written and then dropped are hidden
        self._writer = SummaryWriter(str(about.path / "tensorboard"), purge_step=purged)
        if purged is None:
            text = "\n".join(f"    {key} = {value}" for key, value in about.experiment.items())
            self._writer.add_text("experiment", text, 0)

    def write(self, row: Mapping[str, Any], clients: Sequence[Mapping[str, Any]]) -> None:
        """One step."""
        import torch

        for key, value in numbers(row).items():
            self._writer.add_scalar(key, value, row["round"])
        accuracies = [client["accuracy"] for client in clients if client.get("accuracy") is not None]
        if len(accuracies) > 1:
            self._writer.add_histogram("clients/accuracy", torch.tensor(accuracies), row["round"])
        self._writer.flush()

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()
