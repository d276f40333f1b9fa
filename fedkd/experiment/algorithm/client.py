"""Client: all that a client half may touch."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import torch

from fedkd.base.randomness import generator
from fedkd.data import Federation, Samples
from fedkd.experiment.algorithm.node import Node
from fedkd.experiment.algorithm.participation import attackers
from fedkd.experiment.algorithm.train import Split
from fedkd.experiment.experiment import Experiment, Functions
from fedkd.knowledge.memory import Memory


class Client(Node):
    """One client. Nothing survives a round but ``memory``; nothing survives a call but ``memory`` and ``live`` values."""

    #: Whether it is one of a simulation of ours, where all clients' data lie with the experimenter.
    simulated = False

    def __init__(
        self,
        id: int,
        experiment: Experiment,
        functions: Functions,
        federation: Federation,
        memory: Memory,
        device: torch.device,
    ) -> None:
        super().__init__(experiment, functions, federation, memory, device)
        self.id = id
        self.clients = experiment.data.clients

    @property
    def name(self) -> str:
        """``client 3``."""
        return f"client {self.id}"

    @property
    def architecture(self) -> str:
        """The name of this client's net."""
        return self.experiment.architecture_of(self.id)

    @property
    def train(self) -> Split:
        """This client's own training samples; an attacker's may be mislabelled."""
        return self.split(self._train)

    @cached_property
    def _train(self) -> Samples:
        samples = self.federation.client_train(self.id)
        if self.id not in attackers(self.experiment):
            return samples
        from fedkd.knowledge.attacks import ATTACKS

        labels = samples.labels.clone()
        rng = self.lasting_rng("mislabelled")
        labels[samples.indices] = ATTACKS[self.experiment.attack.name].labels(labels[samples.indices], self.classes, rng)
        return replace(samples, labels=labels)

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
