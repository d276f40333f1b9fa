"""The run: one mutable object beside the frozen strategy. It owns the server, the broadcasts and the loop over rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp import Grid

from fedkd.errors import InputError
from fedkd.evaluate import evaluate_global
from fedkd.exchange import EVALUATE, PERSIST, PROBE, TRAIN, Courier, Received, Traffic
from fedkd.experiment import Experiment, Functions, device_of
from fedkd.history import History
from fedkd.knowledge import Knowledge
from fedkd.memory import Memory
from fedkd.participation import draw_cohort, draw_evaluated
from fedkd.randomness import derive, seeded, torch_threads
from fedkd.records import from_records, wire_bytes
from fedkd.row import first_line, headline, mean_metrics, worst_tenth
from fedkd.server import Server

OnRound = Callable[[dict[str, Any], list[dict[str, Any]]], None]


class Run:
    """One run of an experiment on a grid. ``done`` rounds lie behind it: more than none after ``restore``."""

    def __init__(
        self,
        experiment: Experiment,
        grid: Grid,
        *,
        functions: Functions | None = None,
        initial_arrays: ArrayRecord | None = None,
        on_round: OnRound | None = None,
    ) -> None:
        self.experiment, self.strategy = experiment, experiment.strategy
        self.courier = Courier(grid, experiment.uplink, experiment.data.clients, experiment.timeout)
        federation, device = experiment.federation(), device_of(experiment)
        self.server = Server(experiment, functions or Functions(), federation, Memory(), device)
        self.done = -1
        self.common, self.personal = Knowledge(), dict[int, Knowledge]()
        self._initial_arrays, self._on_round = initial_arrays, on_round
        self._cohort: list[int] = []
        self._exchanges = 1
        self._row: dict[str, Any] = {}
        self._clients: dict[int, dict[str, Any]] = {}
        self._traffic = {"down": Traffic(), "evaluation": Traffic()}

    def execute(self) -> History:
        """Run all rounds that are left. Row 0 is the state before training."""
        history = History()
        try:
            with torch_threads(self.experiment.engine.num_cpus):
                self.courier.join()
                for round in range(self.done + 1, self.experiment.rounds + 1):
                    row, clients = self._round(round)
                    history.metrics.append(row)
                    history.clients.extend(clients)
                    if self._on_round:
                        self._on_round(row, clients)
        finally:
            self.server.release()
        return history

    def _round(self, round: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        self.begin(round)
        if round == 0:
            self.first_broadcast()
        else:
            self._train(round)
        if self._evaluates(round):
            self._evaluate(round)
        self.done = round
        return self._finish_row()

    # Training

    def instructions(self, round: int, exchange: int) -> list[Message]:
        """The messages of one exchange. The cohort is drawn at the round's first."""
        if exchange == 0:
            self._cohort = draw_cohort(self.experiment, round)
            self._clients = {client: {"client": client, "status": "ok"} for client in self._cohort}
        broadcasts = {client: self.personal.get(client, self.common) for client in self._cohort}
        last = exchange == self._exchanges - 1
        facts = {"round": round, "exchange": exchange, "persist": int(last or not self.courier.keeps_contexts)}
        return self.courier.instruct(TRAIN, broadcasts, facts, self._traffic["down"])

    def absorb(self, round: int, replies: Iterable[Message], exchange: int) -> None:
        """Uploads in; the server's half; the next broadcast stands ready. A round without uploads keeps the last one."""
        self.server.exchange = exchange
        seed = derive(self.experiment.seed, round, exchange, "server", "torch")
        with torch_threads(self.experiment.engine.num_cpus), seeded(seed):
            schema = self.strategy.upload_schema(self.server)
            received = self.courier.uploads(replies, self._cohort, schema, round=round, exchange=exchange)
            if received.uploads:
                answer = self.strategy.server_update(self.server, received.uploads)
                if isinstance(answer, Knowledge):
                    self.common, self.personal = answer, {}
                else:
                    self.personal |= answer
        self.server.release(kept=False)
        self._book(received)
        self._cohort = list(received.uploads)
        self._row |= mean_metrics(received.uploads)

    def losses(self) -> MetricRecord:
        """The round's mean loss over clients, so far."""
        return MetricRecord({key: float(value) for key, value in self._row.items() if key == "loss"})

    def adopt(self, arrays: ArrayRecord) -> None:
        """Put these arrays in the place of the common broadcast's tensors, which must have the same names."""
        if arrays.keys() != self.common.tensors.keys():
            odd = sorted(arrays.keys() ^ self.common.tensors.keys())[:3]
            raise InputError(
                f"initial_arrays: {', '.join(odd)} missing or unexpected: give the state_dict of the broadcast net"
            )
        given = {name: torch.from_numpy(array.numpy().copy()) for name, array in arrays.items()}
        tensors = {name: given[name].to(tensor.dtype) for name, tensor in self.common.tensors.items()}
        self.common = replace(self.common, tensors=tensors)

    def arrays(self) -> ArrayRecord:
        """The tensors of the common broadcast, as Flower has them."""
        return ArrayRecord({name: tensor.float() for name, tensor in self.common.tensors.items()})

    def begin(self, round: int) -> None:
        """Open the books of a round."""
        self._began, self._row, self._clients = time.perf_counter(), {"round": round}, {}
        self._traffic = {"down": Traffic(), "evaluation": Traffic()}
        self.server.round, self.server.exchange = round, 0

    def first_broadcast(self) -> None:
        """Make what clients get before round 1."""
        with seeded(derive(self.experiment.seed, 0, "server", "torch")):
            self.common = self.strategy.first_broadcast(self.server)
        if self._initial_arrays:
            self.adopt(self._initial_arrays)
        self.server.release(kept=False)

    def _train(self, round: int) -> None:
        self._exchanges = self.strategy.exchanges_per_round(self.experiment)
        everyone: list[int] = []
        for exchange in range(self._exchanges):
            messages = self.instructions(round, exchange)
            everyone = everyone or list(self._cohort)
            replies = self.courier.grid.send_and_receive(messages, timeout=self.experiment.timeout)
            self.absorb(round, replies, exchange)
            if not self._cohort:
                break
        left = sorted(set(everyone) - set(self._cohort))
        if left and self._exchanges > 1:  # who left in mid-round still holds its memory live: have it written
            facts = {"round": round, "exchange": 0, "persist": 1}
            farewells = self.courier.instruct(PERSIST, dict.fromkeys(left, Knowledge()), facts, Traffic())
            list(self.courier.grid.send_and_receive(farewells, timeout=self.experiment.timeout))

    def _book(self, received: Received) -> None:
        for client, traffic in received.traffic.items():
            row = self._clients[client]
            row["bytes_up"] = row.get("bytes_up", 0) + traffic.raw
            row["coded_bytes_up"] = row.get("coded_bytes_up", 0) + traffic.coded
            row["wire_bytes_up"] = row.get("wire_bytes_up", 0) + traffic.wire
        for client, upload in received.uploads.items():
            self._clients[client] |= {"weight": upload.weight, **upload.metrics}
        for client, reason in received.failed.items():
            self._clients[client] |= {"status": "failed", "reason": reason}
        for client in received.late:
            self._clients[client] |= {"status": "late", "reason": f"no reply within {self.experiment.timeout:g} s"}

    # Evaluation

    def evaluation_instructions(self, round: int) -> list[Message]:
        """Score the server's predictors, then ask clients to score theirs; embedders go with the server's probe."""
        self.server.round = round
        seed = derive(self.experiment.seed, round, "server", "evaluate")
        with torch_threads(self.experiment.engine.num_cpus), seeded(seed):
            predictors = self.strategy.predictors(self.server, self.common)
            found = evaluate_global(predictors, self.server)
        self.server.release(kept=False)
        self._row |= found.row
        probes = {f"{PROBE}{name}/{part}": t for name, p in found.probes.items() for part, t in vars(p).items()}
        with_probes: dict[int, Knowledge] = {}

        def evaluated(knowledge: Knowledge) -> Knowledge:
            if id(knowledge) not in with_probes:
                with_probes[id(knowledge)] = knowledge.with_tensors("weights", probes)
            return with_probes[id(knowledge)]

        asked = draw_evaluated(self.experiment)
        broadcasts = {client: evaluated(self.personal.get(client, self.common)) for client in asked}
        facts = {"round": round, "exchange": 0, "global": int(not predictors)}
        return self.courier.instruct(EVALUATE, broadcasts, facts, self._traffic["evaluation"])

    def absorb_evaluation(self, round: int, replies: Iterable[Message]) -> MetricRecord:
        """The clients' accuracies: mean and worst tenth; ``accuracy`` too where no net is global."""
        contents, received = self.courier.receive(replies, draw_evaluated(self.experiment))
        own, everyone = [], []
        for client, records in contents.items():
            metrics = from_records(records).metrics
            self._traffic["evaluation"].wire += wire_bytes(records)
            scores = {split: headline(metrics, split) for split in ("own", "global")}
            if scores["own"] is not None:
                own.append(scores["own"])
                self._clients.setdefault(client, {"client": client})["accuracy"] = scores["own"]
            if scores["global"] is not None:
                everyone.append(scores["global"])
        if own:
            self._row |= {"client_accuracy": sum(own) / len(own), "worst_tenth_accuracy": worst_tenth(own)}
        if everyone:
            self._row["accuracy"] = sum(everyone) / len(everyone)
        if received.failed:
            self._row["evaluation_failures"] = {str(client): first_line(why) for client, why in received.failed.items()}
        return MetricRecord({key: float(self._row[key]) for key in ("accuracy", "client_accuracy") if key in self._row})

    def _evaluates(self, round: int) -> bool:
        return round % self.experiment.evaluate_every == 0 or round == self.experiment.rounds

    def _evaluate(self, round: int) -> None:
        messages = self.evaluation_instructions(round)
        replies = self.courier.grid.send_and_receive(messages, timeout=self.experiment.timeout) if messages else []
        self.absorb_evaluation(round, replies)

    def _finish_row(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        down = self._traffic["down"]
        clients = [{"round": self._row["round"], **self._clients[client]} for client in sorted(self._clients)]
        count = {status: sum(row.get("status") == status for row in clients) for status in ("ok", "late", "failed")}
        up = {key: sum(row.get(key, 0) for row in clients) for key in ("bytes_up", "coded_bytes_up", "wire_bytes_up")}
        row = {
            **self._row,
            **up,
            "bytes_down": down.raw,
            "wire_bytes_down": down.wire,
            "evaluation_bytes": self._traffic["evaluation"].wire,
            **{f"clients_{status}": number for status, number in count.items()},
        }
        if reasons := {str(row["client"]): first_line(row["reason"]) for row in clients if "reason" in row}:
            row["failures"] = reasons
        row["seconds"] = time.perf_counter() - self._began
        return row, clients
