"""The family of strategies whose clients are peers in lockstep: what all of them do alike, and what a paper says of its own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from fedkd.engine.strategy import Strategy
from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.node import Node
from fedkd.experiment.algorithm.predictors import Classifier
from fedkd.experiment.algorithm.server import Server
from fedkd.experiment.algorithm.settings import Settings
from fedkd.knowledge.knowledge import Knowledge
from fedkd.methods.peers.lockstep import Peer, check_batch, take_turn
from fedkd.methods.peers.turns import UpdateName, exchanges


@dataclass(frozen=True)
class LockstepStrategy(Strategy):
    """K clients take the same mini-batches and exchange outputs on each. What is concrete here, no subclass overrides.

    A subclass says who learns when (``update``), what a peer trains, computes and loses (``peer``), what of it travels
    (``upload_schema``) and what the server makes of it (``server_update``). Peers start from different weights; their nets and
    optimisers stay over the rounds. A peer that fails leaves until the next round.
    """

    outlives_its_round: ClassVar[bool] = False
    compares_clients: ClassVar[bool] = True

    @property
    @abstractmethod
    def update(self) -> UpdateName:
        """Who learns when: a name in ``fedkd.methods.peers.turns.UPDATES``."""

    @abstractmethod
    def peer(self, client: Client) -> Peer:
        """A client as a peer, in this round."""

    def exchanges_per_round(self, experiment: Settings) -> int:
        """One a turn, and one."""
        return exchanges(experiment, self.update)

    def check_upload(self, server: Server, upload: Knowledge) -> None:
        """The batch must be everybody's."""
        check_batch(server, upload, self.update)

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Learn from one batch, upload outputs for the next."""
        return take_turn(client, broadcast, self.peer(client), self.update)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """A client's own net, without what a peer trains beside it; the server has none."""
        return {"main": Classifier(node.net(init="own", keep=True).eval())} if isinstance(node, Client) else {}
