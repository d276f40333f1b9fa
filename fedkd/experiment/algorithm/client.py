"""Client: all that a client half may touch."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import torch

from fedkd.base.randomness import generator
from fedkd.data import Federation, Samples
from fedkd.experiment.algorithm.functions import Functions
from fedkd.experiment.algorithm.node import Node
from fedkd.experiment.algorithm.settings import Settings
from fedkd.experiment.algorithm.train import Split
from fedkd.experiment.algorithm.work import Work
from fedkd.knowledge.memory import Memory


class Client(Node):
    """One client. Nothing survives a round but ``memory``; nothing survives a call but ``memory`` and ``live`` values."""

    #: Whether it is one of a simulation of ours, where all clients' data lie with the experimenter.
    simulated = False

    def __init__(
        self,
        id: int,
        experiment: Settings,
        functions: Functions,
        federation: Federation,
        memory: Memory,
        device: torch.device,
    ) -> None:
        super().__init__(experiment, functions, federation, memory, device)
        self.id = id

    @property
    def name(self) -> str:
        """``client 3``."""
        return f"client {self.id}"

    @property
    def architecture(self) -> str:
        """The name of this client's net."""
        return self.experiment.architecture_of(self.id)

    def work(self) -> Work:
        """How training is done here and now. Under data.normalise = "client" all that it sees is normalised by its own."""
        if self.federation.normalise != "client":
            return super().work()
        return replace(super().work(), moments=self.federation.client_moments(self.id))

    @property
    def train(self) -> Split:
        """The samples that this client trains on: its own, which the engine may have mislabelled for an attacker."""
        return self.split(self.train_samples)

    @cached_property
    def train_samples(self) -> Samples:
        """Its own training samples, unless the engine gave it others."""
        return self.federation.client_train(self.id)

    @property
    def test(self) -> Split:
        """This client's own test samples; they have the label distribution of its training samples."""
        return self.split(self.federation.client_test(self.id))

    def shared_rng(self, purpose: str) -> torch.Generator:
        """A fresh generator that is equal at all clients: the same draw, hence the same batch, for all peers."""
        return generator(self.experiment.seed, self.round, self.exchange, "shared", purpose)

    @cached_property
    def samples(self) -> int:
        """How many training samples this client has."""
        return len(self.train)
