"""Server: all that a server half may touch. Its memory is checkpointed and never sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fedkd.base.randomness import seeded
from fedkd.experiment.algorithm.node import Node
from fedkd.experiment.algorithm.train import Split
from fedkd.knowledge.knowledge import Knowledge
from fedkd.nets import Net, load


class Server(Node):
    """The server of one run."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.reported: dict[str, float] = {}
        #: What ``show_teaching`` was given last: answers by client, target, ids.
        self.lesson: tuple[Mapping[int, Tensor], Tensor, Tensor] | None = None

    def report(self, numbers: Mapping[str, float], *, prefix: str = "server_") -> None:
        """Put numbers into the round's row of metrics, each as ``server_<name>``: losses of a student at the server, say.

        What speaks of the clients, not of the server, says so with another ``prefix``.
        """
        self.reported |= {f"{prefix}{name}": value for name, value in numbers.items()}

    def show_teaching(self, answers: Mapping[int, Tensor], target: Tensor, samples: Split) -> None:
        """Show what is taught, where clients' answers do not travel: it is measured, and changes nothing.

        Args:
            answers: logits of each client's net by client id, (P, C) each.
            target: the logits made of them, (P, C).
            samples: the public samples that the rows are for, in their order.
        """
        self.lesson = answers, target, samples.samples.indices

    def frozen_nets(self) -> list[Net]:
        """A fresh net of each architecture of the experiment of which a part is frozen."""
        with seeded(0):
            nets = [self.fresh_net(architecture=name) for name in self.user_nets]
        return [net for net in nets if net.left_out]

    def taken_over(self, before: Knowledge, after: Knowledge) -> Knowledge:
        """Put the broadcast ``after`` in the place of ``before``: a net kept here with those weights gets the new ones."""
        nets = [net for _, net, keep in self._nets.values() if keep]
        old = before.tensors
        for module in [*nets, *(module for module, keep in self._modules.values() if keep)]:
            held = module.state_dict()
            if held.keys() == old.keys() and all(torch.equal(tensor.cpu(), old[key].cpu()) for key, tensor in held.items()):
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
        """How many training samples each client has; empty where they do not tell it, under [privacy]."""
        return self.federation.train_sizes

    def architecture_of(self, client: int) -> str:
        """The name of a client's net."""
        return self.experiment.architecture_of(client)

    @property
    def test(self) -> Split:
        """The global test set."""
        return self.split(self.federation.test)
