"""The replay of a run's rounds: its server half over the uploads that were kept, as it was and with a change.

Only the server works, on uploads that the run kept; no client trains. So this says what one broadcast would have been, and not
what later rounds would have made of it. First every round is replayed as it was: unless that gives the broadcast of the run, to
the bit, nothing is said about it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fedkd.base.errors import InputError, Notice
from fedkd.base.randomness import derive, seeded, torch_threads
from fedkd.data.dealt_out import DealtOut
from fedkd.engine.audit.shadows import public_rows
from fedkd.engine.kept import knowledge_of, one_for_all
from fedkd.engine.recording import identity_of
from fedkd.engine.replay.changes import Change, check_put_together
from fedkd.engine.replay.measures import accuracy_of, agreement, difference, equal
from fedkd.experiment.algorithm.device import device_of
from fedkd.experiment.algorithm.functions import Functions
from fedkd.experiment.algorithm.net_shares import is_given
from fedkd.experiment.algorithm.server import Server
from fedkd.experiment.experiment import Experiment
from fedkd.experiment.registry import name_of
from fedkd.experiment.strategy_of_round import strategy_of
from fedkd.knowledge import codecs
from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.memory import Memory
from fedkd.results import checkpoint
from fedkd.results.identity import EXPERIMENT, flat_experiment, refuse_other
from fedkd.results.place import refuse_without_run
from fedkd.results.uploads import KeptExchange, read_exchanges, upload_files


@dataclass(frozen=True)
class Bytes:
    """Of one exchange: all clients' uploads, and one client's broadcast. Coded without a base: "delta" saves nothing here."""

    up: int
    coded_up: int
    down: int
    coded_down: int


@dataclass(frozen=True)
class Replayed:
    """An exchange that ended in a broadcast, as it was and as it would have been."""

    round: int
    exchange: int
    clients: int
    accuracy_then: float | None
    accuracy: float | None
    accuracy_of: str  # what the accuracies are shares of
    agreement: float | None  # the share of rows with the same class; None where it is no table of answers
    difference: float  # relative, 0 where the broadcasts are equal
    bytes_then: Bytes
    bytes: Bytes

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def replay(
    path: Path, change: Change, rounds: Sequence[int] | None = None, experiment: Experiment | None = None
) -> list[Replayed]:
    """Replay rounds of a run that kept its uploads.

    Args:
        path: the run's directory, with ``uploads/``.
        change: what is other than it was.
        rounds: which; default, the last that was kept. Empty: all.
        experiment: what was run; default, what the directory says. It must be given where nets or data are functions.

    Raises:
        InputError: there is no run, it kept no uploads, or a broadcast is not made of one round's uploads alone; one line.
    """
    refuse_without_run(path)
    files = upload_files(path)
    if not files:
        raise InputError(f"{path} kept no uploads: run it again with record.uploads = true")
    asked = list(files) if rounds is not None and not rounds else list(rounds or [max(files)])
    if lacking := [number for number in asked if number not in files]:
        raise InputError(f"{path} kept no uploads of round {lacking[0]}: there are {_ranges(files)}")
    opened = _open(path, experiment)
    with torch_threads(opened.experiment.engine.num_cpus):
        found = [each for number in asked for each in opened.round(number, read_exchanges(files[number]), change)]
    if not found:
        raise InputError(f"{path}: no broadcast was made of uploads in round {_ranges(asked)}, so there is nothing to replay")
    if change != Change() and all(each.difference == 0 and each.bytes == each.bytes_then for each in found):
        text = f"the change does nothing to round {_ranges(asked)}: broadcasts and their bytes are what they were"
        warnings.warn(text, Notice, stacklevel=2)
    return found


def _ranges(rounds: Mapping[int, object] | Sequence[int]) -> str:
    numbers = sorted(rounds)
    whole = numbers == list(range(numbers[0], numbers[-1] + 1)) and len(numbers) > 1
    return f"{numbers[0]} to {numbers[-1]}" if whole else ", ".join(map(str, numbers))


def _open(path: Path, experiment: Experiment | None) -> _Opened:
    said = [text for key, value in flat_experiment(path).items() for text in (key.rpartition(".")[2], str(value))]
    if experiment is None and any(map(is_given, said)):
        script = "from fedkd.engine.replay.replay import replay, and call it there with the experiment"
        raise InputError(f"{path}: its nets or data are functions that only its script has: {script}")
    experiment = experiment or Experiment.from_toml(path / EXPERIMENT)
    federation = experiment.run_federation
    if not isinstance(federation, DealtOut):
        raise InputError(f"{path}: with data.partition = 'own' the samples are at the clients, and none are here to score on")
    functions = experiment.functions()
    refuse_other(path, identity_of(experiment, functions))
    return _Opened(path, experiment, functions, federation)


@dataclass(frozen=True)
class _Opened:
    path: Path
    experiment: Experiment
    functions: Functions
    federation: DealtOut

    def round(self, number: int, exchanges: Sequence[KeptExchange], change: Change) -> list[Replayed]:
        """The exchanges of a round that ended in a broadcast."""
        if any(kept.personal for kept in exchanges):
            raise InputError(f"{self._name} tells each client something of its own: there is no one broadcast to replay")
        changed = change.of(self.experiment)
        then, now = self._server(self.experiment, number), self._server(changed, number)
        found = []
        for exchange, kept in enumerate(exchanges):
            if kept.common is None or not kept.uploads:  # nothing came, or nothing could be made of it
                continue
            uploads = {client: knowledge_of(upload) for client, upload in kept.uploads.items()}
            broadcast = self._answer(self.experiment, then, exchange, uploads)
            if broadcast is None or not equal(knowledge_of(kept.common), broadcast):
                raise InputError(self._why_not(then))
            if not broadcast.tensors:  # an exchange in which clients only say how they got on
                self._answer(changed, now, exchange, uploads)
                continue
            if change.puts_together(self.experiment):
                check_put_together(uploads, broadcast, self._name)
            altered = change.to(uploads, self.experiment, self._labels(then))
            other = self._answer(changed, now, exchange, altered)
            if other is not None:
                found.append(self._measured(change, uploads, (broadcast, then), (other, now), changed))
            then.release(kept=False)
            now.release(kept=False)
        then.release()
        now.release()
        return found

    @property
    def _name(self) -> str:
        return name_of(type(self.experiment.strategy))

    def _server(self, experiment: Experiment, round: int) -> Server:
        """The server at the beginning of a round: with the memory of the last one's checkpoint, if that was kept."""
        server = Server(experiment, self.functions, self.federation, Memory(), device_of(experiment.engine))
        place = checkpoint.place_of(self.path / "checkpoint", round - 1)
        if place.is_dir():
            server.memory = Memory.read(checkpoint.load(place).parts["server"])
        else:
            with seeded(derive(experiment.seed, 0, "server", "torch")):
                experiment.strategy.first_broadcast(server)
        server.release(kept=False)
        server.round = round
        return server

    def _answer(
        self, experiment: Experiment, server: Server, exchange: int, uploads: Mapping[int, Knowledge]
    ) -> Knowledge | None:
        server.exchange = exchange
        with seeded(derive(experiment.seed, server.round, exchange, "server", "torch")):
            answer = one_for_all(strategy_of(experiment, server.round).server_update(server, uploads))
        return answer.copy() if isinstance(answer, Knowledge) else None

    def _why_not(self, server: Server) -> str:
        server.flush()
        kept = sorted({"/".join(key.split("/")[:2]) for key in server.memory})
        why = f"its server goes on from earlier rounds ({', '.join(kept[:3])})" if kept else "it is not made of these alone"
        cure = f"keep the checkpoint of round {server.round - 1} too (record.checkpoints)" if kept else "take another run"
        what = f"{self.path}: round {server.round} of {self._name} does not give its broadcast again, to the bit"
        return f"{what}, from its uploads: {why}: {cure}"

    def _labels(self, server: Server) -> Tensor | None:
        """The labels of the public samples that tables speak of, as far as a server may use them."""
        public = self.federation.public
        return public.labels[public_rows(self.experiment.strategy, server)] if public else None

    def _measured(
        self,
        change: Change,
        uploads: Mapping[int, Knowledge],
        then: tuple[Knowledge, Server],
        now: tuple[Knowledge, Server],
        changed: Experiment,
    ) -> Replayed:
        strategy = self.experiment.strategy
        up, down = strategy.uplink(self.experiment), strategy.downlink(self.experiment)
        with seeded(derive(self.experiment.seed, then[1].round, "server", "evaluate")):
            before = accuracy_of(then[0], strategy, then[1])
            after = accuracy_of(now[0], changed.strategy, now[1])
        return Replayed(
            round=then[1].round,
            exchange=then[1].exchange,
            clients=len(uploads),
            accuracy_then=before.value,
            accuracy=after.value,
            accuracy_of=before.of,
            agreement=agreement(then[0], now[0]),
            difference=difference(then[0], now[0]),
            bytes_then=_bytes(uploads, then[0], up, down),
            bytes=_bytes(uploads, now[0], change.codec or up, change.downlink or down),
        )


def _bytes(uploads: Mapping[int, Knowledge], broadcast: Knowledge, up: Sequence[str], down: Sequence[str]) -> Bytes:
    coded = [codecs.encode(codecs.chain(up, "uplink"), upload, {})[0].raw_bytes for upload in uploads.values()]
    told = codecs.encode(codecs.chain(down, "downlink"), broadcast, {})[0].raw_bytes
    return Bytes(sum(upload.raw_bytes for upload in uploads.values()), sum(coded), broadcast.raw_bytes, told)
