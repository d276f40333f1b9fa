"""Local encoders: self-supervised training without exchange. The baseline of any federation without labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

from fedkd import Client, Embedder, Knowledge, Needs, Node, Positive, Server, Settings, Strategy, TensorSpec
from fedkd.experiment.algorithm.conditions import Idle, When
from fedkd.methods.contrastive import WITH_TEMPERATURE, Base, make_base
from fedkd.methods.encoders.own_encoders import own_encoder, train_own


@final
@dataclass(frozen=True)
class LocalEncoders(Strategy):
    """Each client trains its own encoder by a base on its own samples, round after round, and sends nothing.

    Paper: none; the baseline of federated self-supervised learning.
    What travels: nothing (0 bytes); nets may differ. No labels.
    ``accuracy`` is the mean over clients of a linear probe of their encoders on the global test set, as no net is
    global. The optimiser is new each round, as in the other strategies.
    """

    temperature: Positive = 0.1  # of the base, if it has one
    base: str = "simclr"  # what is descended: a name in fedkd.methods.contrastive.BASES
    base_options: dict[str, Any] = field(default_factory=dict)  # the base's own fields: {queue = 1024}

    paper: ClassVar[str] = "none (baseline)"
    sends: ClassVar[str] = "nothing"
    needs: ClassVar[Needs] = Needs(uses=("views", "probe_epochs"))
    is_baseline: ClassVar[bool] = True
    idle: ClassVar[Idle] = {"temperature": (When("base", *WITH_TEMPERATURE),)}

    def check(self, experiment: Settings) -> None:
        """Also what the base asks for."""
        self.needs.check(type(self).__name__, experiment)
        self.build_base().check(experiment)

    def build_base(self) -> Base[Any]:
        """What clients descend."""
        return make_base(self.base, self.base_options, temperature=self.temperature)

    def first_broadcast(self, server: Server) -> Knowledge:
        """Nothing. Clients that cannot take part are named here."""
        self.build_base().check_clients(server)
        return Knowledge()

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """No tensors."""
        return {}

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """One round of the base on the client's own net, kept in its memory."""
        return Knowledge(weight=client.samples, metrics=train_own(client, self.build_base()))

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """Nothing came, nothing goes."""
        return Knowledge()

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Embedder]:
        """A client's own encoder, its features h before all heads; the server has none."""
        return own_encoder(node, self.build_base())
