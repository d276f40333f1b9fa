"""A right strategy, and wrong ones: each breaks one promise, as users do. FedAvg in a few lines, changed in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from fedkd import Batch, Classifier, Client, Knowledge, Needs, Node, Server, Strategy, broadcast_net, classifier, fit, load
from fedkd.aggregate import weighted_mean
from fedkd.losses import cross_entropy_loss
from fedkd.nets import Net


def loss(net: Net, batch: Batch) -> dict[str, Tensor]:
    return {"cross_entropy": cross_entropy_loss(net(batch.inputs), batch.labels)}


@dataclass(frozen=True)
class Averaging(Strategy):
    """Clients train the global net, the server averages it."""

    paper: ClassVar[str] = "none (test)"
    sends: ClassVar[str] = "weights and buffers, both ways"
    needs: ClassVar[Needs] = Needs(labels=True, equal_nets=True)

    def first_broadcast(self, server: Server) -> Knowledge:
        return Knowledge.of("weights", server.net().state_dict())

    def trained(self, client: Client, broadcast: Knowledge) -> tuple[Net, dict[str, float]]:
        net = client.net()
        load(net, broadcast.tensors)
        return net, fit(net, client.train, loss)

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        net, losses = self.trained(client, broadcast)
        return Knowledge.of("weights", net.state_dict(), weight=len(client.train), metrics=losses)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        return weighted_mean(uploads)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        return {"global": classifier(broadcast_net(node, broadcast))}


@final
@dataclass(frozen=True)
class Right(Averaging):
    """Breaks nothing."""


@dataclass(frozen=True)
class Open(Averaging):
    """Is not final: somebody may inherit half of it."""


@final
@dataclass(frozen=True)
class Unspeakable(Averaging):
    """A field that no run-config can carry."""

    schedule: Any = field(default=(lambda round: 0.1), compare=False)


@final
@dataclass(frozen=True)
class Unnamed(Averaging):
    """Sends a tensor that its schema does not name."""

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        return super().client_update(client, broadcast).with_tensors("counts", {"samples": torch.ones(1)})


@final
@dataclass(frozen=True)
class Silent(Averaging):
    """Reports no loss."""

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        net, _ = self.trained(client, broadcast)
        return Knowledge.of("weights", net.state_dict(), weight=len(client.train))


@final
@dataclass(frozen=True)
class InPlace(Averaging):
    """Adds its step to the broadcast itself."""

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        upload = super().client_update(client, broadcast)
        for name, tensor in upload.tensors.items():
            broadcast.tensors[name].copy_(tensor)
        return upload


@final
@dataclass(frozen=True)
class SumsInPlace(Averaging):
    """Sums the uploads up in the first of them."""

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        first, *others = uploads.values()
        for name, tensor in first.tensors.items():
            if tensor.is_floating_point():
                for other in others:
                    tensor.add_(other.tensors[name])
                tensor.div_(len(uploads))
        return first


@final
@dataclass(frozen=True)
class Remembering(Averaging):
    """Keeps the last loss of each client on its class, and counts its calls on itself."""

    seen: ClassVar[dict[int, float]] = {}

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        upload = super().client_update(client, broadcast)
        self.seen[client.id] = self.seen.get(client.id, 0.0) + upload.metrics["loss"]
        return upload


@final
@dataclass(frozen=True)
class OnTheClient(Averaging):
    """Puts its net on the client, which is another one in the next round."""

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        upload = super().client_update(client, broadcast)
        client.last = upload  # type: ignore[attr-defined]
        return upload


@final
@dataclass(frozen=True)
class WithGraph(Averaging):
    """Keeps logits for a later exchange with all that they were computed from."""

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        upload = super().client_update(client, broadcast)
        batch = next(client.train.stream("keep"))
        client.set_live("logits", client.net()(batch.inputs))
        return upload


@final
@dataclass(frozen=True)
class Curious(Averaging):
    """Trains on what the next client holds."""

    def trained(self, client: Client, broadcast: Knowledge) -> tuple[Net, dict[str, float]]:
        net = client.net()
        load(net, broadcast.tensors)
        other = (client.id + 1) % client.experiment.data.clients
        return net, fit(net, client.split(client.federation.client_train(other)), loss)


@final
@dataclass(frozen=True)
class OnTheTestSet(Averaging):
    """Trains on the test set."""

    def trained(self, client: Client, broadcast: Knowledge) -> tuple[Net, dict[str, float]]:
        net = client.net()
        load(net, broadcast.tensors)
        return net, fit(net, client.split(client.federation.test), loss)


@final
@dataclass(frozen=True)
class Thawing(Averaging):
    """Trains what the user froze."""

    def trained(self, client: Client, broadcast: Knowledge) -> tuple[Net, dict[str, float]]:
        net = client.net()
        load(net, broadcast.tensors)
        for parameter in net.parameters():
            parameter.requires_grad_(True)
        return net, fit(net, client.train, loss)


@final
@dataclass(frozen=True)
class ParametersOnly(Averaging):
    """Sends no buffers, and overwrites none."""

    def first_broadcast(self, server: Server) -> Knowledge:
        return Knowledge.of("weights", dict(server.net().named_parameters()))

    def trained(self, client: Client, broadcast: Knowledge) -> tuple[Net, dict[str, float]]:
        net = client.net()
        net.load_state_dict(dict(broadcast.tensors), strict=False)
        return net, fit(net, client.train, loss)

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        net, losses = self.trained(client, broadcast)
        return Knowledge.of("weights", dict(net.named_parameters()), weight=len(client.train), metrics=losses)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        net = node.net("broadcast")
        net.load_state_dict(dict(broadcast.tensors), strict=False)
        return {"global": classifier(net)}


@final
@dataclass(frozen=True)
class InTrainMode(Averaging):
    """Evaluates its net in train mode."""

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        return {"global": Classifier(broadcast_net(node, broadcast).train())}


@final
@dataclass(frozen=True)
class Unseeded(Averaging):
    """Noise from a generator that nobody seeds."""

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        rng = torch.Generator()
        rng.seed()
        upload = super().client_update(client, broadcast)
        noisy = {n: t + 0.01 * torch.rand(t.shape, generator=rng) for n, t in upload.tensors.items()}
        return Knowledge.of("weights", noisy, weight=upload.weight, metrics=upload.metrics)


_LAST: dict[str, Tensor] = {}


@final
@dataclass(frozen=True)
class ThroughAGlobal(Averaging):
    """Starts where the client that was asked before it ended."""

    def trained(self, client: Client, broadcast: Knowledge) -> tuple[Net, dict[str, float]]:
        net = client.net()
        load(net, broadcast.tensors if client.id % 4 in (0, 3) or not _LAST else _LAST)
        losses = fit(net, client.train, loss)
        _LAST.update({name: tensor.clone() for name, tensor in net.state_dict().items()})
        return net, losses


_MOMENTUM: dict[tuple[int, str], Tensor] = {}


@final
@dataclass(frozen=True)
class ServerGlobal(Averaging):
    """Keeps the server's momentum beside its memory, and begins it anew with a run."""

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        mean = weighted_mean(uploads)
        for name, tensor in mean.tensors.items():
            _MOMENTUM[server.round, name] = tensor + 0.5 * _MOMENTUM.pop((server.round - 1, name), tensor)
        return Knowledge.of("weights", {name: _MOMENTUM[server.round, name] / 1.5 for name in mean.tensors})


@final
@dataclass(frozen=True)
class Detached(Averaging):
    """A second part of the loss that moves nothing."""

    def trained(self, client: Client, broadcast: Knowledge) -> tuple[Net, dict[str, float]]:
        net, start = client.net(), broadcast.tensors
        load(net, start)

        def with_proximity(net: nn.Module, batch: Batch) -> dict[str, Tensor]:
            weights = {name: parameter.detach() for name, parameter in net.named_parameters()}
            far = sum(((weight - start[name]) ** 2).sum() for name, weight in weights.items())
            return {**loss(net, batch), "proximity": torch.as_tensor(far)}  # type: ignore[arg-type]

        return net, fit(net, client.train, with_proximity)


@final
@dataclass(frozen=True)
class Forgetting(Averaging):
    """Broadcasts the first weights for ever."""

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        return self.first_broadcast(server)


@final
@dataclass(frozen=True)
class Undivided(Averaging):
    """Weights the uploads, and divides by how many they are."""

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        parts = [{n: t * (u.weight / 30) for n, t in u.tensors.items()} for u in uploads.values()]
        return Knowledge.of("weights", {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]})


@final
@dataclass(frozen=True)
class NeedsAll(Averaging):
    """Takes it that all clients have answered."""

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        return weighted_mean({client: uploads[client] for client in server.clients})


@final
@dataclass(frozen=True)
class ByPosition(Averaging):
    """Trains on public samples in the order in which the node holds them, so that positions mean nothing to others."""

    needs: ClassVar[Needs] = Needs(labels=True, equal_nets=True, public=True)

    def trained(self, client: Client, broadcast: Knowledge) -> tuple[Net, dict[str, float]]:
        net, losses = super().trained(client, broadcast)
        first = client.split(client.public.samples.subset(torch.arange(8)))
        fit(net, first, lambda net, batch: {"scale": net(batch.inputs).square().mean()}, epochs=1)
        return net, losses


@final
@dataclass(frozen=True)
class Mirroring(Averaging):
    """Mirrors what it trains on, and does not say that it needs images."""

    def trained(self, client: Client, broadcast: Knowledge) -> tuple[Net, dict[str, float]]:
        net, losses = super().trained(client, broadcast)
        fit(net, client.train, lambda net, batch: {"scale": net(batch.inputs.flip(3)).square().mean()}, epochs=1)
        return net, losses


@final
@dataclass(frozen=True)
class OwnHooks(Averaging):
    """Overrides a hook of Flower's, which its engine does not call."""

    def configure_train(self, server_round: int, *rest: Any) -> Any:
        return []
