"""Server: all that a server half may touch. Its memory is checkpointed and never sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedkd import codecs
from fedkd.experiment import Experiment
from fedkd.knowledge import Knowledge
from fedkd.nets import Net
from fedkd.node import Node
from fedkd.saved_nets import saved_nets
from fedkd.train import Split
from fedkd.user_code import imports_allowed


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

    def saved_nets(self, run: str) -> dict[str, Net]:
        """The nets that a finished run left in its directory, by name, frozen, here. InputError where it left none."""
        channels, height, width = self.federation.source.train_images.shape[1:]
        nets = saved_nets(run, shape=(channels, height, width), classes=self.classes, functions=self._functions.nets)
        return {name: net.to(self.device) for name, net in nets.items()}

    def saved_class_sets(self, run: str) -> Tensor:
        """Which classes each net of a finished run was trained on, in the order of ``saved_nets``. (K, C) bool"""
        with imports_allowed():  # the file is a run's of this machine
            federation = Experiment.from_toml(Path(run) / "experiment.toml").federation()
        owners = [name.partition("-")[2].partition("-")[0] for name in self.saved_nets(run)]  # of "client-3-main": "3"
        trained = [federation.client_train(int(owner)) if owner.isdigit() else federation.train for owner in owners]
        return torch.stack([samples.label_counts() > 0 for samples in trained])
