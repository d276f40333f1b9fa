"""Server: all that a server half may touch. Its memory is checkpointed and never sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.base.errors import InputError, under
from fedkd.experiment.algorithm.node import Node
from fedkd.experiment.algorithm.train import Split
from fedkd.knowledge import codecs
from fedkd.knowledge.knowledge import Knowledge
from fedkd.methods.students.foreign_nets import columns_of, origin, with_our_classes, with_our_inputs
from fedkd.methods.students.saved_nets import saved_nets
from fedkd.nets import Net, load
from fedkd.results.data import class_names


class Server(Node):
    """The server of one run."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.reported: dict[str, float] = {}

    def report(self, numbers: Mapping[str, float], *, prefix: str = "server_") -> None:
        """Put numbers into the round's row of metrics, each as ``server_<name>``: losses of a student at the server, say.

        What speaks of the clients, not of the server, says so with another ``prefix``.
        """
        self.reported |= {f"{prefix}{name}": value for name, value in numbers.items()}

    def as_received(self, knowledge: Knowledge) -> Knowledge:
        """What clients read when this is broadcast: the same, but for what ``downlink`` loses.

        A method that goes on from what it sent, as its clients do, goes on from this, or both drift apart.
        """
        return codecs.as_decoded(codecs.chain(self.experiment.strategy.downlink(self.experiment), "downlink"), knowledge)

    def taken_over(self, before: Knowledge, after: Knowledge) -> Knowledge:
        """The broadcast ``after``, once a net that is kept here with the weights of ``before`` has those of ``after`` too."""
        nets = [net for _, net, keep in self._nets.values() if keep]
        told = before.tensors
        for module in [*nets, *(module for module, keep in self._modules.values() if keep)]:
            held = module.state_dict()
            if held.keys() == told.keys() and all(torch.equal(tensor.cpu(), told[key].cpu()) for key, tensor in held.items()):
                load(module, after.tensors)
        return after

    @property
    def name(self) -> str:
        """``server``."""
        return "server"

    @property
    def architecture(self) -> str:
        """The name of the server's net: ``server_net``, by default the first of the clients' nets."""
        return self.experiment.server_net or self.experiment.architectures[0]

    @property
    def clients(self) -> range:
        """The ids of all clients, participants or not."""
        return range(self.experiment.data.clients)

    @cached_property
    def sizes(self) -> Sequence[int]:
        """How many training samples each client has by this server's own federation."""
        return [len(self.federation.client_train(client)) for client in self.clients]

    def architecture_of(self, client: int) -> str:
        """The name of a client's net."""
        return self.experiment.architecture_of(client)

    @property
    def test(self) -> Split:
        """The global test set."""
        return self.split(self.federation.test)

    def saved_nets(self, run: str, *, some_classes: bool = False) -> dict[str, Net]:
        """The nets that a finished run left in its directory, by name, frozen, here.

        They take images as this run has them, and give logits in the order of this run's classes, whatever normalisation and
        order they learned with. With ``some_classes`` they need not know them all: ``saved_class_sets`` says which they know.

        Raises:
            InputError: it left no nets, or its classes or images are not those of this run.
        """
        source, data = self.federation.source, origin(run, self.federation.source)
        ours = class_names(source)
        theirs = data.classes if data else ours
        with under(run):
            columns = columns_of(theirs, ours, some=some_classes)
        nets = saved_nets(run, shape=source.shape, classes=len(theirs), functions=self._functions.nets)
        if theirs != ours:
            nets = {name: with_our_classes(net, columns) for name, net in nets.items()}
        if data and (data.mean, data.std) != (tuple(source.mean.tolist()), tuple(source.std.tolist())):
            moments = (torch.tensor(data.mean), torch.tensor(data.std)), (source.mean, source.std)
            nets = {name: with_our_inputs(net, *moments) for name, net in nets.items()}
        return {name: net.to(self.device).eval() for name, net in nets.items()}

    def saved_class_sets(self, run: str) -> Tensor:
        """Which classes of ours each net of a finished run was trained on, in the order of ``saved_nets``. (K, C) bool"""
        data = origin(run, self.federation.source)
        if data is None:
            raise InputError(f"{run} does not say which classes its nets know: run it again, or take another target")
        columns = columns_of(data.classes, class_names(self.federation.source), some=True)
        counts = F.pad(torch.tensor(data.client_classes), (0, 1))[:, columns]  # (clients, C), 0 for what -1 points at
        owners = {name: name.partition("-")[2].partition("-")[0] for name in self.saved_nets(run, some_classes=True)}
        trained = {name: counts[int(id)] if id.isdigit() else counts.sum(0) for name, id in owners.items()}  # client-3-main
        if nothing := next((name for name, of_net in trained.items() if not of_net.any()), ""):
            raise InputError(f"{run}: {nothing} was trained on none of this run's classes: take another run")
        return torch.stack([*trained.values()]) > 0
