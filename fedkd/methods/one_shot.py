"""One shot: clients train once, their nets travel once, and all else is done at the server, to a student that goes back."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from torch import Tensor

from fedkd.base.errors import Notice
from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.node import Node
from fedkd.experiment.algorithm.predictors import Classifier, classifier
from fedkd.experiment.algorithm.server import Server
from fedkd.experiment.algorithm.train import Split
from fedkd.knowledge.knowledge import Knowledge, TensorSpec
from fedkd.losses import cross_entropy_loss
from fedkd.methods.architecture_groups import weights_schema
from fedkd.methods.frozen_nets import frozen_net, tensors_under
from fedkd.methods.public_distillation import predict_public, train_on_labels
from fedkd.methods.synthesis import sound
from fedkd.nets import Net
from fedkd.nets.batch_statistics import norms_of

#: In a client's memory: whether it has trained.
TRAINED = "one_shot/trained"
#: In a broadcast's header: whether the server has what the client that it is for was to send.
ARRIVED = "arrived"
#: How the names of the student's tensors begin in a broadcast: they are no start for clients' nets.
STUDENT = "student/"
#: How the names of what clients sent begin in the server's memory; a client's id follows.
TEACHER = "teacher/"


def train_once(client: Client, broadcast: Knowledge) -> Knowledge:
    """A client's own net, from the initial weights that all share: trained when it is first asked, uploaded until it arrives.

    From then on the client sends nothing, and measures the student on its training samples.
    """
    data = client.train.labelled()
    if broadcast.header.get(ARRIVED):
        return Knowledge(weight=len(data), metrics=measured(student_net(client, broadcast), data))
    net = client.net(keep=True)
    losses = measured(net, data) if TRAINED in client.memory else train_on_labels(net, data)
    client.memory[TRAINED] = 1
    return Knowledge.of("weights", net.state_dict(), weight=len(data), metrics=losses)


def measured(net: Net, data: Split) -> dict[str, float]:
    """The mean cross-entropy of a net that is not trained now, by the names that ``train_on_labels`` has."""
    loss = float(cross_entropy_loss(predict_public(net, data), data.samples.labels[data.samples.indices]))
    return {"cross_entropy": loss, "loss": loss}


def once_schema(server: Server, client: int) -> Mapping[str, TensorSpec]:
    """A client's net, or nothing once it has arrived."""
    return {} if client in arrived(server) else weights_schema(server, client)


def arrived(server: Server) -> dict[int, dict[str, Tensor]]:
    """What has come so far, nets as a rule, by client id, in order."""
    nets: dict[int, dict[str, Tensor]] = {}
    for name, tensor in server.memory.under(TEACHER).items():
        client, _, rest = name.partition("/")
        nets.setdefault(int(client), {})[rest] = tensor
    return dict(sorted(nets.items()))


def keep(server: Server, uploads: Mapping[int, Knowledge]) -> None:
    """Keep what came, of clients that did send something."""
    for client, upload in uploads.items():
        if upload.tensors:
            server.memory.store(f"{TEACHER}{client}/", upload.tensors)


def take(server: Server, uploads: Mapping[int, Knowledge]) -> dict[int, Net]:
    """Keep the nets that came, and give all that are there as frozen teachers, by client id; each is in memory at once.

    Nets that give what is not finite for noise of the scale of samples do not teach.
    """
    keep(server, uploads)
    nets = {
        client: frozen_net(server, f"{TEACHER}{client}", weights, server.architecture_of(client))
        for client, weights in arrived(server).items()
    }
    return sound(server, nets)


def student_net(node: Node, broadcast: Knowledge | None = None) -> Net:
    """The student: kept at the server, as broadcast at a client."""
    architecture = node.experiment.server_net or node.experiment.architectures[0]
    weights = tensors_under(broadcast, STUDENT) if broadcast is not None else None
    return node.net("student", architecture=architecture, weights=weights, keep=isinstance(node, Server))


def send_student(server: Server) -> dict[int, Knowledge]:
    """The student for every client, and whether the client's own net has come."""
    tensors = {STUDENT + name: tensor for name, tensor in student_net(server).state_dict().items()}
    told = {come: Knowledge.of("weights", tensors, header={ARRIVED: int(come)}) for come in (False, True)}
    come = arrived(server)
    return {client: told[client in come] for client in server.clients}


def student_predictors(node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
    """The student; at a client that has not heard of it, its own net."""
    if isinstance(node, Server):
        return {"student": classifier(student_net(node))}
    return {"student": classifier(student_net(node, broadcast) if broadcast.tensors else node.net(keep=True))}


def say_if_without_norms(node: Node, field: str, weight: float) -> None:
    """A Notice where a field weighs the statistics of BatchNorm layers, and no client's net has one."""
    names = node.experiment.architectures
    if weight and not any(norms_of(node.net(name, architecture=name)) for name in names):
        text = f"strategy.{field} = {weight:g} does nothing here: no client's net ({', '.join(names)}) has BatchNorm layers"
        warnings.warn(text, Notice, stacklevel=2)
