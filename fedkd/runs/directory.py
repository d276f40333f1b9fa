"""A run is one directory: description, environment, metrics, checkpoints, nets, figures, report. Zip it and mail it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from fedkd.errors import InputError
from fedkd.runs import checkpoint
from fedkd.runs.checkpoint import Checkpoint
from fedkd.runs.data import FILE, RecordedData
from fedkd.runs.environment import environment
from fedkd.runs.files import append_lines, read_lines, write_atomically
from fedkd.runs.representations import FOLDER, representation_files

if TYPE_CHECKING:
    from flwr.app import RecordDict
    from torch import Tensor

    from fedkd.data.federation import Federation


@final
class RunDirectory:
    """The directory that a run writes: make one with ``create`` for a new run or ``resume`` for an unfinished one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: str | Path, *, experiment_toml: str, federation: Federation) -> RunDirectory:
        """Start a run's directory: ``experiment.toml``, ``data.json``, ``env.json`` and ``partition.png``.

        Raises InputError, before anything is written, for a directory that is not empty or cannot be made.
        """
        path = Path(path)
        refuse_if_taken(path)
        data = RecordedData.of(federation)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the output directory {path}: {error.strerror}") from error
        from fedkd.runs.plots import partition

        data.write(path)
        write_atomically(path / "env.json", json.dumps(environment(), indent=1) + "\n")
        partition(federation.partition_table(), federation.source.classes, path / "partition.png")
        write_atomically(path / "experiment.toml", experiment_toml)
        return cls(path)

    @classmethod
    def resume(cls, path: str | Path) -> RunDirectory:
        """Take up a run where its newest complete checkpoint left it; later rows are dropped from the logs.

        Raises InputError when the directory holds no run or no checkpoint.
        """
        path = Path(path)
        if not (path / "experiment.toml").is_file():
            raise InputError(f"{path} holds no run (it has no experiment.toml): give the directory of a run to --resume")
        last = checkpoint.round_of(checkpoint.newest(path / "checkpoint"))
        for log in (path / "metrics.jsonl", path / "clients.jsonl"):
            kept = [row for row in read_lines(log) if row["round"] <= last]
            write_atomically(log, "".join(json.dumps(row) + "\n" for row in kept))
        for round, file in representation_files(path).items():
            if round > last:
                file.unlink()
        return cls(path)

    def experiment_toml(self) -> str:
        """The run's description, as it was given to ``create``."""
        return (self.path / "experiment.toml").read_text()

    def append(self, row: Mapping[str, Any], clients: Sequence[Mapping[str, Any]]) -> None:
        """Log one round: a line in ``metrics.jsonl``, a line a client in ``clients.jsonl``, on disk when this returns.

        Values may be numpy or torch scalars; NaN becomes null. Call it before ``save_checkpoint`` for the same round.
        """
        append_lines(self.path / "clients.jsonl", [{"round": row["round"], **client} for client in clients])
        append_lines(self.path / "metrics.jsonl", [row])

    def save_representations(self, round: int, tensors: Mapping[str, Tensor], classes: Sequence[object]) -> None:
        """Keep what a round's picture shows: features (N, D) and labels (N,). Call it before ``append`` for the same round."""
        from safetensors.torch import save

        (self.path / FOLDER).mkdir(exist_ok=True)
        file = self.path / FOLDER / f"round-{round:04d}.safetensors"
        write_atomically(file, save(dict(tensors), metadata={"classes": json.dumps([str(name) for name in classes])}))

    def save_checkpoint(self, round: int, parts: Mapping[str, RecordDict], note: Mapping[str, Any]) -> None:
        """Keep what the run needs to go on after this round; the note holds JSON values. The last two rounds stay."""
        checkpoint.save(self.path / "checkpoint", Checkpoint(round, dict(parts), dict(note)))

    def load_checkpoint(self) -> Checkpoint:
        """The newest complete checkpoint. Raises InputError when there is none."""
        return checkpoint.load(checkpoint.newest(self.path / "checkpoint"))

    def finish(self, nets: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Write the final nets (state dicts by name), the figures (of peers, of representations) and, last, the report."""
        from safetensors.torch import save

        from fedkd.runs.peers_plot import has_peers, peers
        from fedkd.runs.plots import convergence
        from fedkd.runs.recorded import RecordedRun
        from fedkd.runs.report import write_report
        from fedkd.runs.representation_plot import has_representations, representation

        for name, state in nets.items():
            target = self.path / "nets" / f"{name}.safetensors"
            target.parent.mkdir(parents=True, exist_ok=True)
            tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in state.items()}
            write_atomically(target, save(tensors))
        run = RecordedRun.read(self.path)
        convergence([run], self.path / "convergence.png")
        if has_peers(run):
            peers(run, self.path / "peers.png")
        if has_representations(run):
            representation(run, self.path / "representation.png")
        write_report(run, self.path / "report.html")


def refuse_if_taken(path: Path) -> None:
    """Raise InputError unless ``path`` is free for a new run: missing, or an empty directory."""
    if path.is_dir() and not any(path.iterdir()):
        return
    if (path / "experiment.toml").exists():
        cure = f"go on with `fedkd run --resume {path}`, or give another directory with --out"
        raise InputError(f"{path} already holds a run: {cure}")
    if path.exists():
        kind = "a directory with other files" if path.is_dir() else "a file"
        raise InputError(f"{path} is {kind}: give a new or empty directory with --out")


def discard_unstarted(path: Path) -> bool:
    """Remove what a run wrote before its first checkpoint; whether it did. A run with a checkpoint is left alone."""
    if any((path / "checkpoint").glob("round-*")):
        return False
    for name in ("experiment.toml", FILE, "env.json", "partition.png", "metrics.jsonl", "clients.jsonl"):
        (path / name).unlink(missing_ok=True)
    if path.is_dir():
        for folder in ("checkpoint", FOLDER):
            shutil.rmtree(path / folder, ignore_errors=True)
        if not any(path.iterdir()):
            path.rmdir()
    return True
