"""Small strategies that use what the contract promises and the shipped ones do not need. Hand-checkable, a few numbers each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch

from fedkd import Client, Knowledge, Node, Predictor, Server, Strategy, TensorSpec, fit
from fedkd.losses import cross_entropy_loss

NUMBER = {"number": TensorSpec((1,), torch.float32, "embedding")}


def number(value: float, **rest: float) -> Knowledge:
    return Knowledge.of("embedding", {"number": torch.tensor([float(value)])}, metrics=rest)


@dataclass(frozen=True)
class Numbers(Strategy):
    """Clients exchange one number: enough to see who hears what, and when."""

    paper: ClassVar[str] = "none (test)"
    sends: ClassVar[str] = "one number"

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Predictor]:
        return {}

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        return NUMBER


@final
@dataclass(frozen=True)
class LeaveOneOut(Numbers):
    """A broadcast of its own per client: the sum of what the others sent. Client k sends k + 1."""

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        heard = float(broadcast.tensors["number"]) if broadcast.tensors else 0.0
        return number(client.id + 1, heard=heard)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Mapping[int, Knowledge]:
        total = sum(float(upload.tensors["number"]) for upload in uploads.values())
        return {k: number(total - float(upload.tensors["number"])) for k, upload in uploads.items()}


@final
@dataclass(frozen=True)
class Counting(Numbers):
    """Several exchanges a round: a memory that counts calls over the run, and a live value that counts exchanges of a round."""

    exchanges: int = 3

    def exchanges_per_round(self, experiment: object) -> int:
        return self.exchanges

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        client.memory["calls"] = int(client.memory.get("calls", 0)) + 1  # type: ignore[arg-type]
        start = client.live("start", lambda: 100.0 * client.round)
        draw = float(torch.rand((), generator=client.shared_rng("draw")))
        own = float(torch.rand((), generator=client.rng("draw")))
        return number(start + client.exchange, calls=client.memory["calls"], draw=draw, own=own)  # type: ignore[arg-type]

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        server.memory["updates"] = int(server.memory.get("updates", 0)) + 1  # type: ignore[arg-type]
        return number(float(server.memory["updates"]))  # type: ignore[arg-type]


@final
@dataclass(frozen=True)
class TwoNets(Numbers):
    """Two kept nets and a kept optimiser a client, trained in two exchanges a round: a digest and a revisit."""

    def exchanges_per_round(self, experiment: object) -> int:
        return 2

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        name = ("digest", "revisit")[client.exchange]
        net = client.net(name, architecture="mlp", init="own", keep=True)
        optimizer = client.optimizer(name, net, momentum=0.9)
        held = float(sum(p.detach().abs().sum() for p in net.parameters()))
        losses = fit(
            net,
            client.train,
            lambda net, batch: {"cross_entropy": cross_entropy_loss(net(batch.inputs), batch.labels)},
            optimizer=optimizer,
        )
        moving = sum(float(state["momentum_buffer"].abs().sum()) for state in optimizer.state.values())
        return number(float(sum(p.detach().abs().sum() for p in net.parameters())), held=held, moving=moving, **losses)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        return number(sum(float(upload.tensors["number"]) for upload in uploads.values()))


@final
@dataclass(frozen=True)
class Misbehaving(Numbers):
    """Client 1 sends something bad, client 2 raises; the others send their number."""

    fault: str = "nan"

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        if client.id == 2:
            raise RuntimeError("the disk of client 2 is full")
        bad = {
            "nan": Knowledge.of("embedding", {"number": torch.tensor([float("nan")])}),
            "shape": Knowledge.of("embedding", {"number": torch.zeros(1, 3)}),
            "dtype": Knowledge.of("embedding", {"number": torch.zeros(1, dtype=torch.float64)}),
            "space": Knowledge.of("logits", {"number": torch.zeros(1)}),
            "name": Knowledge.of("embedding", {"other": torch.zeros(1)}),
            "weight": Knowledge.of("embedding", {"number": torch.zeros(1)}, weight=1e6),
            "size": Knowledge.of("embedding", {"number": torch.zeros(1_000_000)}),
            "none": number(client.id),
        }
        return bad[self.fault] if client.id == 1 else number(client.id)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        return number(sum(float(upload.tensors["number"]) for upload in uploads.values()))
