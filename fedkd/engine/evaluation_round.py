"""The evaluation of a round as the server sees it: what is scored here, what clients are asked, what their answers say."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import final

import torch
from flwr.app import Message, RecordDict
from torch import Tensor

from fedkd.base.errors import Notice
from fedkd.base.randomness import derive, seeded, torch_threads
from fedkd.data.partition import EACH_ITS_OWN
from fedkd.engine.answers import (
    check_answer,
    describe_headlines,
    describe_own,
    headline_accuracy,
    means,
    other_accuracies,
    probe_accuracies,
    worst_tenth,
)
from fedkd.engine.broadcasts import Broadcasts
from fedkd.engine.evaluation.evaluate import PEER_LOGITS, evaluate_global
from fedkd.engine.evaluation.peers import compared
from fedkd.engine.guard import SLACK_BYTES, check_upload
from fedkd.engine.instruction import EVALUATE
from fedkd.engine.reasons import first_line, in_words
from fedkd.engine.received import Traffic
from fedkd.engine.round_metrics import RoundMetrics
from fedkd.engine.sent_probes import with_probes
from fedkd.engine.sent_test import with_test
from fedkd.engine.transport import Transport
from fedkd.experiment.algorithm.participation import draw_evaluated
from fedkd.experiment.algorithm.server import Server
from fedkd.experiment.experiment import Experiment
from fedkd.grids.jobs import JobGrid
from fedkd.knowledge.knowledge import Knowledge, TensorSpec
from fedkd.knowledge.records import from_records, wire_bytes
from fedkd.results.environment import cores


@final
class EvaluationRound:
    """Asks clients and takes in their answers. All that it finds goes into the metrics of the round."""

    def __init__(self, experiment: Experiment, server: Server, transport: Transport) -> None:
        self._experiment, self._server, self._transport = experiment, server, transport
        self._compares = False
        self._splits: tuple[str, ...] = ("own",)
        self._headline_is_own = False
        self._asked: list[int] = []

    def ask(self, broadcasts: Broadcasts, metrics: RoundMetrics) -> list[Message]:
        """Score the server's predictors, then ask clients to score theirs; embedders go with the server's probe.

        Where no net is global, clients score theirs on the global test set too, and send their logits there if the strategy
        compares its clients.
        """
        server, strategy = self._server, self._experiment.strategy
        seed = derive(self._experiment.seed, server.round, "server", "evaluate")
        with torch_threads(self._experiment.engine.num_cpus), seeded(seed):
            predictors = strategy.predictors(server, broadcasts.common)
            scores = evaluate_global(predictors, server, side_by_side=self._idle())
            beside = strategy.scored_with(server).copy()
        server.release(kept=False)
        metrics.row |= scores.row
        metrics.representations = scores.representations
        self._asked = self._whom_to_ask()
        distinct = {id(knowledge): knowledge for knowledge in map(broadcasts.to, self._asked)}
        sent = {key: self._transport.as_received(each).beside(beside) for key, each in distinct.items()}
        sent = {key: with_probes(each, scores.probes) for key, each in sent.items()}
        globally = not predictors and len(server.federation.test) > 0
        if globally and self._experiment.data.partition == EACH_ITS_OWN:
            sent = {key: with_test(each, server.federation.test) for key, each in sent.items()}
        messages = {client: sent[id(broadcasts.to(client))] for client in self._asked}
        self._compares = strategy.compares_clients and globally
        self._splits = ("own", "global") if globally else ("own",)
        self._headline_is_own = "accuracy" not in scores.row and not globally
        asked = {"globally": globally, "compared": self._compares}
        return self._transport.instruct(EVALUATE, messages, metrics.evaluation, round=server.round, **asked)

    def _idle(self) -> int:
        """How many cores of this machine wait for the server: those of the clients' processes, of a simulation."""
        grid, each = self._transport.grid, self._experiment.engine.num_cpus
        processes = len(grid.one_of_each_process()) if isinstance(grid, JobGrid) else 1
        return max(1, min(processes, cores() // each))

    def _whom_to_ask(self) -> list[int]:
        """Under [privacy] only clients of a simulation, whose data lie with the experimenter: answers are exact counts."""
        if self._experiment.privacy.noise_multiplier and not isinstance(self._transport.grid, JobGrid):
            warnings.warn("as [privacy] is on, clients elsewhere are not asked for their accuracy", Notice, stacklevel=2)
            return []
        return draw_evaluated(self._experiment)

    def absorb(self, replies: Iterable[Message], metrics: RoundMetrics) -> None:
        """The clients' accuracies: mean and worst tenth; ``accuracy`` too where no net is global; how peers compare."""
        contents, received = self._transport.receive(replies, self._asked)
        own, everyone, beside, beside_global = [], [], [], []
        answered: list[Mapping[str, float]] = []
        answered_own: list[Mapping[str, float]] = []
        logits: dict[int, Tensor] = {}
        failed = dict.fromkeys(received.late, "no answer in time") | received.failed
        for client, records in contents.items():
            try:
                answer = self._read(client, records)
            except Exception as error:  # as with uploads: others go on
                failed[client] = f"its evaluation is rejected: {in_words(error)}"
                continue
            metrics.evaluation.setdefault(client, Traffic()).add(0, 0, wire_bytes(records))
            if PEER_LOGITS in answer.tensors:
                logits[client] = answer.tensors[PEER_LOGITS]
            scores = {split: headline_accuracy(answer.metrics, split) for split in ("own", "global")}
            if scores["own"] is not None:
                own.append(scores["own"])
                metrics.client(client)["accuracy"] = scores["own"]
                answered_own.append(answer.metrics)
                beside.append(other_accuracies(answer.metrics))
            if scores["global"] is not None:
                everyone.append(scores["global"])
                answered.append(answer.metrics)
                beside_global.append(probe_accuracies(answer.metrics))
        if own:
            metrics.row |= {"client_accuracy": sum(own) / len(own), "worst_tenth_accuracy": worst_tenth(own)}
        metrics.row |= means(beside)
        if own and self._headline_is_own:
            metrics.row |= {"accuracy": sum(own) / len(own), "accuracy_of": describe_own(answered_own)}
        if everyone:
            metrics.row |= {"accuracy": sum(everyone) / len(everyone), "accuracy_of": describe_headlines(answered)}
            metrics.row |= means(beside_global)
        if logits:
            metrics.row |= self._compare(logits)
        if failed:
            named = {str(client): first_line(why) for client, why in sorted(failed.items())}
            metrics.row["evaluation_failures"] = metrics.row.get("evaluation_failures", {}) | named

    def _read(self, client: int, records: RecordDict) -> Knowledge:
        """The answer, its size bounded, its tensors and counts checked. ValueError says what is wrong with it."""
        shape = (len(self._server.federation.test), self._server.classes)
        spec = TensorSpec(shape, torch.float32, "logits", optional=True)  # a client may have nothing to evaluate
        schema = {PEER_LOGITS: spec} if self._compares else {}
        limit = sum(spec.raw_bytes for spec in schema.values()) + SLACK_BYTES
        answer = from_records(records, max_bytes=limit, max_facts=SLACK_BYTES)
        check_upload(answer, schema, classes=self._server.classes)
        check_answer(answer.metrics, {split: self._samples(client, split) for split in self._splits})
        return answer

    def _samples(self, client: int, split: str) -> int | None:
        """How many labelled test samples this client has, if that is known here."""
        federation = self._server.federation
        if split == "global":
            return len(federation.test.labelled())
        if self._experiment.data.partition == EACH_ITS_OWN:
            return federation.holdings[client].test if federation.holdings else None
        return len(federation.client_test(client).labelled()) if isinstance(self._transport.grid, JobGrid) else None

    def _compare(self, logits: Mapping[int, Tensor]) -> dict[str, object]:
        """The clients that answered, as peers in order of client id."""
        test = self._server.federation.test
        with torch_threads(self._experiment.engine.num_cpus):
            comparison = compared(torch.stack(list(logits.values())), test.labels[test.indices])
        return {"peer_clients": list(logits), **comparison}
