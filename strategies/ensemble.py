"""The ensemble of locally trained nets: how much clients know together, were it free to ask them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from fedkd import Classifier, Client, Knowledge, Needs, Node, Server, Strategy, TensorSpec, classifier
from fedkd.methods.architecture_groups import clients_nets, weights_schema
from fedkd.methods.public_distillation import train_on_labels


@final
@dataclass(frozen=True)
class Ensemble(Strategy):
    """Clients train on their own, as in ``local``, and upload their nets; the server predicts by the mean of all.

    Paper: none; an oracle. It is what methods that distil from all clients' predictions have for a teacher.
    What travels: the client's weights and buffers up, |θ_k| elements a client and round; nothing down. Nets may differ.
    Client for client it trains as ``local`` does, to the bit. ``accuracy`` is that of the mean probabilities of every
    net that has arrived so far, the newest of each client, all counting the same; in row 0, before any arrived, it is
    the mean accuracy of the clients' own nets.
    """

    paper: ClassVar[str] = "none (oracle)"
    sends: ClassVar[str] = "weights and buffers up, nothing down"
    needs: ClassVar[Needs] = Needs(labels=True)
    is_baseline: ClassVar[bool] = True

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """One round of cross-entropy on the client's own net, kept in its memory."""
        net, data = client.net(init="own", keep=True), client.train.labelled()
        losses = train_on_labels(net, data)
        return Knowledge.of("weights", net.state_dict(), weight=len(data), metrics=losses)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The nets are remembered; nothing goes back."""
        for client, upload in uploads.items():
            server.memory.store(f"member/{client}/", upload.tensors)
        return Knowledge()

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """All nets together at the server, its own net at a client."""
        if not isinstance(node, Server):
            return {"main": classifier(node.net(init="own", keep=True))}
        members = {client: held for client in node.clients if (held := node.memory.under(f"member/{client}/"))}

        def mean_probabilities(inputs: Tensor) -> Tensor:
            nets = (net for _, net in clients_nets(node, members))
            return torch.stack([net(inputs).float().softmax(1) for net in nets]).mean(0)  # (B, C)

        return {"ensemble": Classifier(mean_probabilities)} if members else {}

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """Weights and buffers of the client's own architecture."""
        return weights_schema(server, client)
