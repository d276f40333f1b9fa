"""Clients by architecture: weights go only among equal nets, so the server keeps a net for each kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.server import Server
from fedkd.knowledge.knowledge import Knowledge, TensorSpec, schema_of
from fedkd.methods.public_distillation import train_on_labels
from fedkd.nets import Net, load


def architectures(server: Server) -> tuple[str, ...]:
    """Each architecture once: the server's own, which may be no client's, then those of the clients."""
    return tuple(dict.fromkeys((server.architecture, *server.experiment.architectures)))


def group_net(server: Server, architecture: str) -> Net:
    """The net that the server keeps for an architecture, from shared initial weights."""
    return server.net(architecture, architecture=architecture, keep=True)


def weights_of_groups(server: Server) -> dict[int, Knowledge]:
    """For every client the weights of its group's net, one knowledge an architecture."""
    names = server.experiment.architectures
    weights = {name: Knowledge.of("weights", group_net(server, name).state_dict()) for name in names}
    return {client: weights[server.architecture_of(client)] for client in server.clients}


def train_received(client: Client, broadcast: Knowledge) -> Knowledge:
    """A client's half of FedAvg: local epochs of cross-entropy from the weights received, and what they become."""
    net, data = client.net(weights=broadcast.tensors), client.train.labelled()
    losses = train_on_labels(net, data)
    return Knowledge.of("weights", net.state_dict(), weight=len(data), metrics=losses)


def weights_schema(server: Server, client: int) -> Mapping[str, TensorSpec]:
    """What an upload of a client's weights and buffers holds."""
    return schema_of(Knowledge.of("weights", _passing_net(server, client).state_dict()))


def clients_nets(server: Server, weights: Mapping[int, Mapping[str, Tensor]]) -> Iterator[tuple[int, Net]]:
    """One client's net after the other, in eval mode, from weights by client id.

    Use each before taking the next: there is one net in memory for each architecture, whatever the number of clients.
    """
    for client, tensors in weights.items():
        net = _passing_net(server, client)
        load(net, tensors)
        yield client, net.eval()


def _passing_net(server: Server, client: int) -> Net:
    """A net of the client's architecture that the server does not keep."""
    architecture = server.architecture_of(client)
    return server.net(f"{architecture} of a client", architecture=architecture)
