"""A student at the server: its net, whom it is shown to, and what clients do for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import torch

from fedkd.base.errors import InputError, under
from fedkd.engine.strategy import Strategy
from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.node import Node
from fedkd.experiment.algorithm.predictors import Classifier, classifier
from fedkd.experiment.algorithm.server import Server
from fedkd.experiment.algorithm.settings import Settings
from fedkd.experiment.algorithm.train import Split, predict
from fedkd.knowledge.knowledge import Knowledge, TensorSpec
from fedkd.losses import cross_entropy_loss
from fedkd.methods.architecture_groups import weights_schema
from fedkd.methods.public_distillation import train_on_labels
from fedkd.methods.students.saved_nets import load_nets
from fedkd.methods.students.teachers import CLASSES, Runs
from fedkd.nets import Net, load


def check(strategy: Strategy, experiment: Settings, runs: Runs) -> None:
    """Raise InputError if the experiment does not give what is needed; public samples are needed for clients' nets only."""
    data = experiment.data
    without = replace(strategy.needs, public=False, pooled_data=not (data.public or data.public_source))
    needs = without if runs else strategy.needs
    needs.check(type(strategy).__name__, experiment)


def has_labels(experiment: Settings) -> bool:
    """Whether what a student at the server learns on has labels: public samples as ``data.public_labels`` says, else all."""
    data = experiment.data
    return data.public_labels or not (data.public or data.public_source)


def check_lesson(experiment: Settings, *, guided: bool, labels: bool, key: str) -> None:
    """Raise InputError where nothing teaches the student's classifier.

    Args:
        experiment: says whether there are labels.
        guided: whether teachers do.
        labels: whether labels do, where there are some.
        key: of the weight of the teachers.
    """
    if not guided and not (labels and has_labels(experiment)):
        why = "there are none: set data.public_labels = true, or another value" if labels else "their weight is 0: raise one"
        raise InputError(f"strategy.{key}: labels alone would teach the student's classifier, and {why}")


def first_broadcast(server: Server, runs: Runs, *, some_classes: bool = False) -> Knowledge:
    """The student's initial weights; runs that cannot teach are refused here. ``some_classes``: they need not know all."""
    for run in runs:
        with under("strategy.teachers"):
            load_nets(server, run, some_classes=some_classes)
    return Knowledge.of("weights", student_net(server).state_dict())


def transfer_samples(server: Server) -> Split:
    """What a student at the server learns on: the public samples, or, where there are none, the training samples of all."""
    return server.public if server.federation.public else server.split(server.federation.train)


def train_or_measure(client: Client, broadcast: Knowledge, runs: Runs, *, name_classes: bool = False) -> Knowledge:
    """A client's own net, trained on and uploaded; where a finished run's nets teach, only the loss of the student here."""
    data = client.train.labelled()
    if runs:
        logits = predict(student_net(client, broadcast).eval(), data.samples, data.work)  # (M, C)
        loss = float(cross_entropy_loss(logits, data.samples.labels[data.samples.indices]))
        return Knowledge(weight=len(data), metrics={"cross_entropy": loss, "loss": loss})
    net = client.net(init="own", keep=True)
    losses = train_on_labels(net, data)
    upload = Knowledge.of("weights", net.state_dict(), weight=len(data), metrics=losses)
    known = (data.samples.label_counts() > 0).to(torch.uint8)  # (C,)
    return upload.with_tensors("counts", {CLASSES: known}) if name_classes else upload


def upload_schema(server: Server, client: int, runs: Runs, *, name_classes: bool = False) -> Mapping[str, TensorSpec]:
    """What ``train_or_measure`` uploads."""
    named = {CLASSES: TensorSpec((server.classes,), torch.uint8, "counts")} if name_classes else {}
    return {} if runs else {**weights_schema(server, client), **named}


def student_net(node: Node, broadcast: Knowledge | None = None) -> Net:
    """The student: kept at the server, as broadcast at a client."""
    architecture = node.experiment.server_net or node.experiment.architectures[0]
    net = node.net("student", architecture=architecture, keep=isinstance(node, Server))
    if broadcast is not None:
        load(net, broadcast.tensors)
    return net


def student_predictors(
    node: Node, broadcast: Knowledge, runs: Runs, *, beside: Mapping[str, Net] = MappingProxyType({})
) -> Mapping[str, Classifier]:
    """The student everywhere, at a client that trains one its own net, and the nets ``beside`` them, by name."""
    nets = {"student": student_net(node, broadcast)}
    own = {} if runs or isinstance(node, Server) else {"main": node.net(init="own", keep=True)}
    return {name: classifier(net) for name, net in {**nets, **own, **beside}.items()}
