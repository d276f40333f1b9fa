"""What every self-supervised base is: an object that opens, descends and closes one client's local training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from torch import Tensor

from fedkd.base.errors import InputError
from fedkd.base.inputs import Inputs
from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.server import Server
from fedkd.experiment.algorithm.settings import Settings
from fedkd.nets import Net, load

S = TypeVar("S")


@dataclass(frozen=True, eq=False)
class Views:
    """Two random views of B samples, and what the trained net makes of them. Rows: all first views, then all second ones."""

    inputs: Inputs  # (2B, ...)
    projected: Tensor  # (2B, 256) projections z, with graph
    ids: Tensor  # (B,) of the samples


class Base(ABC, Generic[S]):
    """A self-supervised objective. Subclasses are abstract, or final frozen dataclasses of hyperparameters.

    One local training is ``receive``, ``start``, then ``loss`` and ``after_step`` for each batch, then ``finish``. What
    ``start`` gives is handed to the others: an object holds no state of its own, as it is a value in an experiment.
    """

    #: The heads of the net that travels. A base that FedX can build on has "projection" among them.
    heads: ClassVar[tuple[str, ...]] = ("projection",)
    #: Whether the client keeps its trained net for the next time it takes part; else every part of it is overwritten.
    keeps_net: ClassVar[bool] = False

    def check(self, experiment: Settings) -> None:
        """Raise InputError on settings that do not go with the experiment. Default: all do."""

    def check_clients(self, server: Server) -> None:
        """Raise InputError on a client that cannot take part, before round 1. Default: one with a single sample."""
        client, samples = smallest_client(server)
        if samples < 2:
            raise InputError(
                f"data: client {client} has {samples} training samples, and a contrast needs 2: give every client more "
                "(data.min_partition_size)"
            )

    def receive(self, client: Client, net: Net, weights: Mapping[str, Tensor]) -> None:
        """Take in the global weights. Default: they overwrite the net."""
        load(net, weights)

    @abstractmethod
    def start(self, client: Client, net: Net) -> S:
        """What the base needs beside the net in one local training: a momentum encoder, a queue, prototypes."""

    @abstractmethod
    def loss(self, state: S, net: Net, views: Views) -> Mapping[str, Tensor]:
        """Its loss parts by name, of views of B samples."""

    def after_step(self, state: S, net: Net) -> None:
        """What moves after each optimiser step. Default: nothing."""

    def finish(self, state: S, client: Client, net: Net) -> None:
        """What the client's memory keeps of this training. Default: nothing."""


def smallest_client(server: Server) -> tuple[int, int]:
    """The id of the client with the fewest training samples, and how many it has."""
    client = min(server.clients, key=server.sizes.__getitem__)
    return client, server.sizes[client]
