"""All that a run's next round rests on: as parts of a checkpoint, and what each client keeps in the database beside it."""

from __future__ import annotations

from typing import final

from flwr.app import RecordDict

from fedkd.base.errors import InputError
from fedkd.engine.run import Run
from fedkd.grids.jobs import JobGrid
from fedkd.knowledge.memory import Memory
from fedkd.knowledge.records import from_records, to_records
from fedkd.results.checkpoint import Checkpoint
from fedkd.results.client_states import ClientStates


@final
class RunState:
    """Takes the state of a run after a round, and puts a run where it was. Clients elsewhere keep their own."""

    def __init__(self, run: Run, states: ClientStates) -> None:
        self._run, self._states = run, states
        grid = run.transport.grid
        self._grid = grid if isinstance(grid, JobGrid) else None

    def begin(self) -> None:
        """The database is there for what leaves memory."""
        if self._grid is not None:
            self._grid.keep_in(self._states)

    def pass_on(self) -> None:
        """End a round of which no checkpoint is written: what clients keep stays in memory, as far as it has room there."""
        if self._grid is not None:
            self._grid.end_round()

    def seal(self, round: int, kept: set[int]) -> int | None:
        """Write what the clients keep after this round, for its checkpoint; how many keep something, None of clients elsewhere.

        ``kept`` are the rounds whose checkpoints are there.
        """
        if self._grid is None:
            return None
        holders = self._states.seal(round, self._grid.take_changed(), kept)
        self._grid.end_round()
        return holders

    def parts(self) -> dict[str, RecordDict]:
        """All else that the next round rests on: broadcasts, server memory, the codecs' bases."""
        run = self._run
        run.server.flush()
        memory = RecordDict()
        run.server.memory.write(memory)
        parts = {"server": memory, "broadcast": to_records(run.broadcasts.common)}
        parts |= {**run.transport.save(), **run.training.save()}
        return parts | {f"broadcast/{client}": to_records(each) for client, each in run.broadcasts.personal.items()}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Put the run where this checkpoint was taken.

        Raises:
            InputError: its clients are elsewhere, and under [privacy]: what they sent in the round that broke off is not
                counted.
        """
        run = self._run
        if run.experiment.privacy.noise_multiplier and not run.transport.simulated:
            raise InputError(
                "privacy.noise_multiplier: a run whose clients are elsewhere cannot be resumed, as nobody counted what they "
                "sent in the round that broke off: begin a new run"
            )
        run.done = checkpoint.round
        run.server.memory = Memory.read(checkpoint.parts["server"])
        run.broadcasts.common = from_records(checkpoint.parts["broadcast"])
        run.broadcasts.personal = {c: from_records(part) for c, part in _by_client(checkpoint, "broadcast").items()}
        run.transport.restore(checkpoint.parts)
        run.training.restore(checkpoint.parts)
        if self._grid is not None:
            in_parts = checkpoint.clients is None  # as an earlier fedkd wrote it
            self._states.rewind(-1 if in_parts else checkpoint.round)
            self._grid.restore(_by_client(checkpoint, "client") if in_parts else {})
            self._grid.keep_in(self._states)


def _by_client(checkpoint: Checkpoint, kind: str) -> dict[int, RecordDict]:
    """The parts ``kind/3`` by client."""
    return {int(key.partition("/")[2]): part for key, part in checkpoint.parts.items() if key.startswith(f"{kind}/")}
