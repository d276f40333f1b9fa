"""The training of a round as the server sees it: what clients are asked, whose uploads count, and what comes of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from typing import final

from flwr.app import Message, RecordDict

from fedkd.base.randomness import derive, seeded, streams_aside, torch_threads
from fedkd.engine.adversity import after_collusion
from fedkd.engine.broadcasts import Broadcasts
from fedkd.engine.guard import Guard, guard_of
from fedkd.engine.instruction import PERSIST, TRAIN
from fedkd.engine.kept import kept_exchange
from fedkd.engine.late_uploads import LateUploads
from fedkd.engine.pace import Pace
from fedkd.engine.privacy_ledger import PrivacyLedger
from fedkd.engine.received import Received, Traffic
from fedkd.engine.rollback import Rollback
from fedkd.engine.round_metrics import RoundMetrics
from fedkd.engine.teaching import Teaching
from fedkd.engine.transport import Transport
from fedkd.experiment.algorithm.participation import draw_cohort, draw_fault, enough_of
from fedkd.experiment.algorithm.server import Server
from fedkd.experiment.experiment import Experiment
from fedkd.grids import JobGrid
from fedkd.knowledge.knowledge import Knowledge


class TrainingRound(ABC):
    """Asks clients to train and lets the server work with what they upload. All that it finds goes into a round's metrics."""

    def __init__(
        self, experiment: Experiment, server: Server, transport: Transport, broadcasts: Broadcasts, pace: Pace
    ) -> None:
        self._experiment, self._server, self._transport, self._broadcasts = experiment, server, transport, broadcasts
        self.pace = pace
        self.rollback = Rollback(experiment, server, broadcasts)
        self.teaching = Teaching(server)

    @abstractmethod
    def carry_out(self, metrics: RoundMetrics) -> None:
        """Train for one round."""

    def save(self) -> dict[str, RecordDict]:
        """What the next round's training rests on beside broadcasts and memories, for a checkpoint."""
        return {**self.rollback.save(), **self.pace.save(), **self.teaching.save()}

    def restore(self, parts: Mapping[str, RecordDict]) -> None:
        """From a checkpoint's parts."""
        self.rollback.restore(parts)
        self.pace.restore(parts)
        self.teaching.restore(parts)

    def _ask(self, clients: Collection[int], metrics: RoundMetrics, *, exchange: int, persist: bool) -> list[Message]:
        """The messages that ask these clients to train on the newest broadcast."""
        broadcasts = {client: self._broadcasts.to(client) for client in clients}
        sent: dict[int, Traffic] = {}
        round = self._server.round
        messages = self._transport.instruct(TRAIN, broadcasts, sent, round=round, exchange=exchange, persist=persist)
        metrics.send(sent)
        return messages

    def _without_dropouts(self, clients: Iterable[int], metrics: RoundMetrics) -> list[int]:
        """These clients but those that the seed has drop out, who are noted."""
        drawn = sorted(clients)
        dropped = [client for client in drawn if draw_fault(self._experiment, self._server.round, client) == "dropout"]
        for client in dropped:
            metrics.fail(client, "dropped out (simulated)")
        return [client for client in drawn if client not in dropped]

    def _update(
        self, received: Received, uploads: Mapping[int, Knowledge], asked: Iterable[int], metrics: RoundMetrics
    ) -> bool:
        """Run the server's half, and say whether it gave a new broadcast; without uploads the last one stays."""
        uploads = after_collusion(self._experiment, uploads)
        self.rollback.enter(received, metrics.row)
        with self.pace.at_server(metrics):
            answer = self.rollback.answer_to(uploads, metrics.row) if uploads else None
        if answer is not None:
            self._broadcasts.announce(answer)
        self._server.release(kept=False)
        self.teaching.enter(uploads, answer, metrics)
        metrics.enter(received)
        if self._experiment.record.uploads:
            metrics.uploads.append(kept_exchange(uploads, answer))
        metrics.row |= self._server.reported
        if self._experiment.privacy.noise_multiplier:
            schemas = {client: self._experiment.strategy.upload_schema(self._server, client) for client in asked}
            metrics.row |= PrivacyLedger(self._experiment.privacy, self._server.memory).enter(schemas)
        return answer is not None

    def _guard(self) -> Guard:
        simulated = self._transport.simulated
        return guard_of(self._experiment.strategy, self._server, simulated=simulated, sent_to=self._broadcasts.to)


@final
class Exchanges(TrainingRound):
    """A cohort and one or more exchanges with it, each of which the server waits for."""

    def __init__(
        self, experiment: Experiment, server: Server, transport: Transport, broadcasts: Broadcasts, pace: Pace
    ) -> None:
        super().__init__(experiment, server, transport, broadcasts, pace)
        self.late_uploads = LateUploads(experiment.late_rounds)
        self._cohort: list[int] = []
        self._exchanges = 1

    def carry_out(self, metrics: RoundMetrics) -> None:
        """Exchange as often as the strategy wants, with those who are left."""
        self._exchanges = self._experiment.strategy.exchanges_per_round(self._experiment)
        everyone: list[int] = []
        with streams_aside():
            for exchange in range(self._exchanges):
                messages = self.instructions(metrics, exchange)
                everyone = everyone or list(self._cohort)
                enough = enough_of(self._experiment, len(messages))
                replies = self._transport.collect(messages, enough, round=self._server.round, exchange=exchange)
                for (earlier, of), late in replies.earlier.items():
                    self._absorb_late(late, metrics, earlier, of)
                self.absorb(replies.current, metrics, exchange)
                if not self._cohort:
                    break
        left = sorted(set(everyone) - set(self._cohort))
        if isinstance(self._transport.grid, JobGrid):
            metrics.row |= self._transport.grid.summary()
        # Who left in mid-round still holds its memory live: have it written.
        if left and self._exchanges > 1 and self._transport.keeps_contexts:
            nothing = dict.fromkeys(left, Knowledge())
            self._transport.ask(self._transport.instruct(PERSIST, nothing, {}, round=self._server.round, persist=True))

    def instructions(self, metrics: RoundMetrics, exchange: int) -> list[Message]:
        """The messages of one exchange. The cohort is drawn at the round's first."""
        if exchange == 0:
            drawn = draw_cohort(self._experiment, self._server.round)
            metrics.enlist(drawn)
            at_work = self.late_uploads.on_their_way.keys() & set(drawn)
            for client in at_work:
                metrics.miss(client, "still at work on an earlier round")
            self._cohort = self._without_dropouts(set(drawn) - at_work, metrics)
        persist = exchange == self._exchanges - 1 or not self._transport.keeps_contexts
        return self._ask(self._cohort, metrics, exchange=exchange, persist=persist)

    def absorb(self, replies: list[Message], metrics: RoundMetrics, exchange: int) -> None:
        """Take in uploads and run the server's half."""
        round, asked = self._server.round, self._cohort
        self._server.exchange = exchange
        seed = derive(self._experiment.seed, round, exchange, "server", "torch")
        with torch_threads(self._experiment.engine.num_cpus), seeded(seed):
            guard = self._guard()
            received = self._transport.read(replies, asked, guard, round=round, exchange=exchange)
            in_time = self.pace.in_time(received, asked, metrics, exchange)
            self._transport.accept(received, in_time, guard, round=round, exchange=exchange)
            self._transport.settle(asked, received.uploads)
            if not asked and (moments := self.late_uploads.on_their_way.values()):
                self.pace.pass_until(min(moments), metrics)
            uploads = self.late_uploads.join(received.uploads, round, self.pace.now)
            self.late_uploads.keep(received.late_uploads, self.pace.arrivals())
            goes_on = self._update(received, uploads, asked, metrics)
        if self._experiment.late_rounds:
            metrics.row["late_used"] = len(uploads) - len(received.uploads)
        self._cohort = list(received.uploads) if goes_on else []

    def save(self) -> dict[str, RecordDict]:
        """Late uploads too."""
        return {**self.late_uploads.save(), **super().save()}

    def restore(self, parts: Mapping[str, RecordDict]) -> None:
        """Late uploads too."""
        super().restore(parts)
        self.late_uploads.restore(parts)

    def _absorb_late(self, replies: list[Message], metrics: RoundMetrics, round: int, exchange: int) -> None:
        guard = self._guard()
        received = self._transport.read(replies, self._server.clients, guard, round=round, exchange=exchange)
        self._transport.accept(received, (), guard, round=round, exchange=exchange)
        metrics.count(received.traffic)
        self.late_uploads.keep(received.late_uploads)
