"""FedGKT: clients train small nets and send feature maps, from which a large tail at the server learns and teaches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedkd import (
    Batch,
    Classifier,
    Client,
    InputError,
    Knowledge,
    Needs,
    Node,
    NonNegative,
    Positive,
    Server,
    Strategy,
    TensorSpec,
    UpTo,
    classifier,
    fit,
    load,
    predict,
)
from fedkd.experiment.algorithm.conditions import Idle, Unless
from fedkd.losses import kd_loss
from fedkd.methods.branches import example_input
from fedkd.methods.frozen_nets import put_under, tensors_under
from fedkd.methods.made_rows import rows_split
from fedkd.methods.public_distillation import train_on_labels
from fedkd.nets import Net, cut_net

Level = Annotated[int, Field(ge=1)]
#: How the names of the large tail's tensors begin.
TAIL = "tail/"


@final
@dataclass(frozen=True)
class FedGKT(Strategy):
    """The edge trains a small net; its map of each sample is where a large net goes on that only the server has.

    Paper: He et al., "Group Knowledge Transfer: Federated Learning of Large CNNs at the Edge", NeurIPS 2020, arXiv
    2007.14513.
    What travels: for each of a client's n_k samples its map, its logits and its label up, n_k (4 |f(x)| + 4 C + 8)
    bytes; the server's logits down, 4 n_k C, nothing in a client's first round. No weights.
        client: CE + lambda_c T² KL(server's logits of the sample || own),  then maps and logits, in eval mode
        server: CE + lambda_s T² KL(client's logits of the sample || tail(map)),  then its logits of all samples
    Rows stand for a client's samples in their order, whatever batches were drawn: no ids travel. ``nets`` are the small
    ones, whole: their first ``level`` parts make the map, the rest is the edge's own classifier. The tail is what
    ``server_net`` has behind its first ``server_level`` parts, any net that can be cut and reads such maps; it goes on
    from round to round. Nets of one architecture start equal.
    The headline is the tail on the client's maps, to which the tail travels for that alone, counted as evaluation;
    "edge" is the small net whole. Labels and maps leave the clients: who holds the tail can invert them.
    That the paper weighs both KL terms, and CE in neither loss, is from memory: its authors' code, in FedML, has
    CE + alpha KL at the client and KL + alpha CE at the server. At lambda = alpha = 1 all are the same.
    Deviations: that code keys logits by the number of a batch that a shuffled loader draws anew, and sends back those
    of the last epoch in train mode; here they are of each sample, and in eval mode of the trained tail. Its server
    goes through one client after the other; here batches are of all clients' samples. Clients that are away keep what
    they were told last, and the tail does not train on their old maps. ``train.schedule`` is in place of its rate
    that falls on a plateau of test accuracy; test maps and labels, which go up there, stay here.
    """

    level: Level = 1  # how many parts of a client's net make the map
    server_level: Level = 1  # how many parts of server_net the tail leaves away
    client_weight: NonNegative = 1.0  # lambda_c, of what the server teaches
    server_weight: NonNegative = 1.0  # lambda_s, of what clients teach
    temperature: Positive = 3.0  # T, of all softmaxes
    server_epochs: Annotated[int, Field(ge=1)] = 1  # over all uploaded maps, each round

    paper: ClassVar[str] = "He et al., NeurIPS 2020, arXiv 2007.14513"
    sends: ClassVar[str] = "feature maps, logits and labels of all samples up, logits down"
    needs: ClassVar[Needs] = Needs(labels=True, server_net=True)
    idle: ClassVar[Idle] = {"temperature": (Unless(client_weight=0, server_weight=0),)}

    def check_samples(self, node: Node) -> None:
        """Refuse nets that cannot be cut there, whose maps differ, or whose maps the tail does not read."""
        maps = {name: self._map(node, name) for name in dict.fromkeys(node.experiment.architectures)}
        (first, shape), *others = maps.items()
        for name, other in others:
            if other != shape:
                raise InputError(
                    f"nets: the maps of {first} and {name} at level {self.level} differ, {shape} and {other}, and one "
                    "tail is to read them all: change level or net_options"
                )
        tail, rows = self._tail(node).eval(), torch.zeros(2, *shape, device=node.device)
        try:
            given = tuple(tail(rows).shape)
            why = "" if given == (2, node.classes) else f"of two it makes {given}, and not logits (2, {node.classes})"
        except (RuntimeError, ValueError, IndexError) as error:
            why = str(error).splitlines()[0]
        if why:
            raise InputError(
                f"server_net: {tail_name(node)} behind level {self.server_level} does not read maps {shape} of {first} "
                f"at level {self.level} ({why}): make channels and sizes equal in net_options"
            )

    def _map(self, node: Node, architecture: str) -> tuple[int, ...]:
        """The shape of a sample's map."""

        def measured() -> tuple[int, ...]:
            net = node.net(f"{architecture} cut", architecture=architecture).eval()
            with torch.no_grad():
                return tuple(cut_net(net, self.level).map_of(example_input(node)).shape[1:])

        return node.live(f"map of {architecture}", measured)

    def _tail(self, node: Node) -> nn.Module:
        """The large tail, kept at the server."""

        def build() -> nn.Module:
            return cut_net(node.fresh_net(architecture=tail_name(node)), self.server_level).tail

        return node.module("tail", build, keep=isinstance(node, Server))

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """As many rows as the client has labelled samples."""
        samples = UpTo("samples", server.sizes[client] if server.sizes else 1)  # they stay unknown under [privacy]
        shape = self._map(server, server.architecture_of(client))
        return {
            "maps": TensorSpec((samples, *shape), torch.float32, "embedding"),
            "logits": TensorSpec((samples, server.classes), torch.float32, "logits"),
            "labels": TensorSpec((samples,), torch.int64, "labels"),
        }

    def check_upload(self, server: Server, upload: Knowledge) -> None:
        """As many rows as the upload weighs."""
        if (rows := len(upload.tensors["labels"])) != upload.weight:
            raise ValueError(f"it speaks of {rows} samples, its weight is {upload.weight:g}")

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs on the small net, towards labels and what the server said; then a map of every sample."""
        net, data = client.net(keep=True), client.train.labelled()

        def loss(net: Net, batch: Batch, taught: Tensor) -> dict[str, Tensor]:
            logits = net(batch.inputs)  # (B, C)
            distillation = kd_loss(logits, taught[batch.positions.to(taught.device)], temperature=self.temperature)
            return {"cross_entropy": batch.cross_entropy(logits), "distillation": self.client_weight * distillation}

        if "logits" in broadcast.tensors:
            taught = broadcast.tensors["logits"].to(client.device)
            if len(taught) != len(data):
                raise ValueError(f"the server speaks of {len(taught)} samples, and there are {len(data)}")
            losses = fit(net, data, loss, given=(taught,))
        else:
            losses = train_on_labels(net, data)
        halves = cut_net(net.eval(), self.level)

        def said(inputs: Tensor) -> Tensor:
            held = halves.map_of(inputs)
            return torch.cat([held.flatten(1), halves.tail(held)], dim=1)

        rows, labels = predict(said, data.samples, data.work), data.samples.labels[data.samples.indices]
        shape = self._map(client, client.architecture)
        maps, logits = rows[:, : -client.classes].unflatten(1, shape), rows[:, -client.classes :]
        spaces = {"maps": "embedding", "logits": "logits", "labels": "labels"}
        tensors = {"maps": maps.contiguous(), "logits": logits.contiguous(), "labels": labels}
        return Knowledge(tensors, spaces, weight=len(data), metrics=losses)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Mapping[int, Knowledge]:
        """The tail learns from all maps; each client hears what it then says of the client's samples."""
        tail, clients = self._tail(server), sorted(uploads)
        maps, said, labels = (
            torch.cat([uploads[k].tensors[name] for k in clients]) for name in ("maps", "logits", "labels")
        )
        shape = maps.shape[1:]
        data = rows_split(server, maps.flatten(1), labels)

        def loss(tail: nn.Module, batch: Batch, said: Tensor) -> dict[str, Tensor]:
            assert isinstance(batch.inputs, Tensor)
            logits = tail(batch.inputs.unflatten(1, shape))  # (B, C)
            distillation = kd_loss(logits, said[batch.positions.to(said.device)], temperature=self.temperature)
            return {"cross_entropy": batch.cross_entropy(logits), "distillation": self.server_weight * distillation}

        optimizer = server.optimizer("tail", tail)
        given = (said.to(server.device),)
        server.report(fit(tail, data, loss, given=given, optimizer=optimizer, epochs=self.server_epochs))
        tail.eval()
        logits = predict(lambda rows: tail(rows.unflatten(1, shape)), data.samples, data.work)  # (N, C)
        of_each = logits.split([len(uploads[k].tensors["labels"]) for k in clients])
        return {k: Knowledge.of("logits", {"logits": own}) for k, own in zip(clients, of_each, strict=True)}

    def scored_with(self, server: Server) -> Knowledge:
        """The tail."""
        return Knowledge.of("weights", put_under(TAIL, self._tail(server).state_dict()))

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """At a client the tail on its maps, where the tail is at hand, and its small net; the server has no maps."""
        if not isinstance(node, Client):
            return {}
        net, sent = node.net(keep=True), tensors_under(broadcast, TAIL)
        if not sent:
            return {"edge": classifier(net)}
        halves, tail = cut_net(net.eval(), self.level), self._tail(node)
        load(tail, sent)
        tail.eval()
        return {"tail": Classifier(lambda inputs: tail(halves.map_of(inputs))), "edge": classifier(net)}


def tail_name(node: Node) -> str:
    """The architecture of which the server has the tail."""
    return node.experiment.server_net or node.experiment.architectures[0]
