"""A run is one directory: description, environment, metrics, checkpoints, nets, figures, report. Zip it and mail it."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from fedkd.base.errors import InputError, Notice
from fedkd.results import checkpoint
from fedkd.results.changes import brought_up, changes, write_down
from fedkd.results.checkpoint import Checkpoint
from fedkd.results.client_states import remove as remove_states
from fedkd.results.data import FILE, RecordedData
from fedkd.results.environment import environment, packages_since, read_environment
from fedkd.results.files import read_lines, write_atomically, writing
from fedkd.results.identity import CODE, EXPERIMENT, Identity, read_code, refuse_edited
from fedkd.results.logs import CLIENTS, FLOW, METRICS, Log, logs_until
from fedkd.results.place import refuse_if_taken, refuse_without_run
from fedkd.results.progress import FILE as PROGRESS
from fedkd.results.representations import FOLDER, representation_files
from fedkd.results.uploads import FOLDER as UPLOADS
from fedkd.results.uploads import KeptExchange, upload_files, write_uploads

if TYPE_CHECKING:
    from flwr.app import RecordDict
    from torch import Tensor

#: The folder of the checkpoints, and of what clients keep.
CHECKPOINTS = "checkpoint"
#: The files that a run has before its first checkpoint.
_BEGINNING = (EXPERIMENT, FILE, "env.json", "partition.png", METRICS, CLIENTS, FLOW, PROGRESS)


@final
class RunDirectory:
    """The directory that a run writes: make one with ``create`` for a new run or ``find`` an unfinished one.

    Write into it only inside ``only_writer``.
    """

    def __init__(
        self, path: Path, identity: Mapping[str, Any], logs: Mapping[str, Log], last: Checkpoint | None = None
    ) -> None:
        self.path = path
        self._identity, self._last = dict(identity), last
        self._logs = {FLOW: Log(path / FLOW), **logs}  # an earlier fedkd wrote none of it

    @classmethod
    def create(cls, path: str | Path, identity: Identity) -> RunDirectory:
        """Start a run's directory: what the run is, and ``env.json``.

        Raises InputError, before anything is written, for a directory that is not empty or cannot be written.
        """
        path = Path(path)
        refuse_if_taken(path)
        directory = cls(path, identity.digests(), {name: Log(path / name) for name in (METRICS, CLIENTS)})
        try:
            with writing(path, InputError):
                path.mkdir(parents=True, exist_ok=True)
                write_atomically(path / "env.json", json.dumps(environment(), indent=1) + "\n")
                identity.write(path)
        except BaseException:
            directory.discard_unstarted()
            raise
        return directory

    @classmethod
    def find(cls, path: str | Path) -> RunDirectory:
        """An unfinished run, as its newest complete checkpoint left it; nothing is written before ``take_up``.

        Raises InputError when the directory holds no run or no checkpoint, or is not as the run left it.
        """
        path = Path(path)
        refuse_without_run(path)
        last = checkpoint.load(checkpoint.newest(path / CHECKPOINTS))
        if "experiment" not in last.note:
            text = "was begun by a fedkd that kept no record of experiment, data and code: they are taken as they are now"
            warnings.warn(f"{path} {text}", Notice, stacklevel=2)
            return cls(path, {}, logs_until(path, last.round), last)
        identity = {key: last.note[key] for key in ("experiment", "data", "code")}
        identity["experiment"] = brought_up(identity["experiment"], path, last.round)
        refuse_edited(path, identity)
        return cls(path, identity, {name: Log.of(path / name, extent) for name, extent in last.note["logs"].items()}, last)

    def changed(self, now: Identity) -> dict[str, tuple[Any, Any]]:
        """The keys of the experiment that are no longer what they were, with both values; none where no record tells."""
        return changes(self._identity["experiment"], now.experiment) if self._identity else {}

    def take_up(self, now: Identity) -> None:
        """Go on from the checkpoint: later rows are dropped from the logs, and what has changed is written down."""
        last, changed = self.load_checkpoint(), self.changed(now)
        with writing(self.path):
            for log in self._logs.values():
                log.cut()
            for round, file in self._files_of_rounds():
                if round > last.round:
                    file.unlink()
            write_down(self.path, last.round, changed, packages_since(self.path))
            if self._identity.get("experiment") != now.experiment:  # keys that are new in fedkd are no change, and written too
                write_atomically(self.path / EXPERIMENT, now.experiment_toml)
            if not self._identity:
                now.write(self.path)
        self._identity = now.digests()

    def experiment_toml(self) -> str:
        """The run's description, as it was given to ``create``."""
        return (self.path / EXPERIMENT).read_text(encoding="utf-8")

    def append(
        self, row: Mapping[str, Any], clients: Sequence[Mapping[str, Any]], flow: Mapping[str, Any] | None = None
    ) -> None:
        """Log one round: a line in ``metrics.jsonl``, a line a client in ``clients.jsonl``, on disk when this returns.

        ``flow``: a line of ``flow.jsonl``, of a round in which clients' answers became a teacher.

        Values may be numpy or torch scalars; NaN becomes null. Call it before ``save_checkpoint`` for the same round.
        """
        with writing(self.path):
            self._logs[CLIENTS].append([{"round": row["round"], **client} for client in clients])
            if flow:
                self._logs[FLOW].append([{"round": row["round"], **flow}])
            self._logs[METRICS].append([row])

    def draw_partition(self, data: RecordedData, counts: Tensor) -> None:
        """Write ``partition.png``, of counts (clients, classes), where it is not there yet."""
        figure = self.path / "partition.png"
        if figure.exists() or not len(counts):  # under [privacy] clients with data of their own do not tell them
            return
        from fedkd.results.figures.partition import partition

        with writing(figure):
            partition(counts, data.classes, figure, unlabelled=data.unlabelled, unheld=data.unheld)

    def save_representations(self, round: int, tensors: Mapping[str, Tensor], classes: Sequence[object]) -> None:
        """Keep what a round's picture shows: features (N, D) and labels (N,). Call it before ``append`` for the same round."""
        from safetensors.torch import save

        file = self.path / FOLDER / f"round-{round:04d}.safetensors"
        with writing(file):
            file.parent.mkdir(exist_ok=True)
            write_atomically(file, save(dict(tensors), metadata={"classes": json.dumps([str(name) for name in classes])}))

    def save_uploads(self, round: int, exchanges: Sequence[KeptExchange]) -> None:
        """Keep uploads and broadcasts of a round's exchanges. Call it before ``append`` for the same round."""
        with writing(self.path / UPLOADS):
            write_uploads(self.path, round, exchanges)

    def save_checkpoint(
        self,
        round: int,
        parts: Mapping[str, RecordDict],
        *,
        clients: int | None = None,
        keep: int = 2,
        also: Collection[int] = (),
    ) -> None:
        """Keep what the run needs to go on after this round. The ``keep`` newest rounds stay, and those of ``also``.

        ``clients``: how many have a state in the database beside the checkpoints, sealed for this round.
        """
        note = {**self._identity, "logs": {name: log.extent for name, log in self._logs.items()}}
        with writing(self.path / CHECKPOINTS):
            checkpoint.save(self.path / CHECKPOINTS, Checkpoint(round, dict(parts), note, clients), keep=keep, also=also)

    def rounds_kept(self) -> set[int]:
        """The rounds whose checkpoints are there."""
        return {checkpoint.round_of(place) for place in checkpoint.places(self.path / CHECKPOINTS)}

    def load_checkpoint(self) -> Checkpoint:
        """The checkpoint that this directory was found with. Raises InputError for a new run, which has none."""
        if self._last is None:
            raise InputError(f"{self.path} has no checkpoint yet: give the directory of an unfinished run")
        return self._last

    def finish(self, nets: Iterable[tuple[str, Mapping[str, Tensor]]]) -> None:
        """Write the final nets (names and state dicts), the figures (of peers, of representations) and, last, the report."""
        from safetensors.torch import save

        from fedkd.results.figures.convergence import convergence
        from fedkd.results.figures.peers import has_peers, peers
        from fedkd.results.figures.representation import has_representations, representation
        from fedkd.results.recorded import RecordedRun
        from fedkd.results.report import write_report

        with writing(self.path):
            for name, state in nets:
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

    def _files_of_rounds(self) -> list[tuple[int, Path]]:
        """The files that hold one round's tensors each, with the round."""
        return [*representation_files(self.path).items(), *upload_files(self.path).items()]

    @staticmethod
    def is_unstarted(path: Path) -> bool:
        """Whether a run was killed there before its first checkpoint, so that nothing is lost with what it left.

        Results whose checkpoints somebody has removed have rows of later rounds, or other files than those of a beginning.
        """
        if "versions" not in read_environment(path) or any((path / CHECKPOINTS).glob("round-*")):
            return False
        folders = (CODE, CHECKPOINTS, FOLDER, UPLOADS)
        others = {file.name for file in path.iterdir() if not file.name.startswith(".")} - {*_BEGINNING, *folders}
        return not others and len(read_lines(path / METRICS)) <= 1

    @classmethod
    def clear_unstarted(cls, path: Path) -> None:
        """Delete what such a run left; any other directory stays as it is."""
        if cls.is_unstarted(path):
            cls(path, {"code": read_code(path)}, {}).discard_unstarted()

    def discard_unstarted(self) -> None:
        """Delete what this run wrote, where it has no checkpoint; what anybody else put there stays."""
        if any((self.path / CHECKPOINTS).glob("round-*")):
            return
        code = [self.path / CODE / name for name in self._identity["code"]]
        for file in [*(self.path / name for name in _BEGINNING), *code, *(file for _, file in self._files_of_rounds())]:
            if file.exists():
                file.unlink()
        shutil.rmtree(self.path / CHECKPOINTS / checkpoint.WRITING, ignore_errors=True)
        remove_states(self.path / CHECKPOINTS)
        for folder in (CHECKPOINTS, FOLDER, UPLOADS, CODE):
            if (self.path / folder).is_dir() and not any((self.path / folder).iterdir()):
                (self.path / folder).rmdir()
