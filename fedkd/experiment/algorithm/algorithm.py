"""Algorithm: what a paper speaks of, both halves in one class. It knows clients and a server, and no engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from fedkd.base.errors import InputError
from fedkd.data import Source
from fedkd.data.partition import EACH_ITS_OWN
from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.conditions import Idle
from fedkd.experiment.algorithm.node import Node
from fedkd.experiment.algorithm.predictors import Predictor
from fedkd.experiment.algorithm.server import Server
from fedkd.experiment.algorithm.settings import Settings
from fedkd.knowledge.knowledge import Knowledge, TensorSpec, schema_of

#: What a strategy may use without needing it, by the names that ``Needs.uses`` has.
USABLE = (
    *("public", "public_labels", "validation", "server_net", "shared_net", "views"),
    *("representations", "compared", "probe_epochs"),  # of [evaluation]; the first is all of its keys
)


@dataclass(frozen=True)
class Needs:
    """What a strategy cannot do without. ``check`` says in one line what an experiment lacks.

    ``uses`` are those of USABLE that make a difference to it beside what it needs; None: unknown. An experiment that sets
    others is told that they do nothing.
    """

    labels: bool = False
    public: bool = False
    validation: bool = False
    equal_nets: bool = False
    server_net: bool = False
    shared_data: bool = False
    pooled_data: bool = False  # the samples of all clients at the server, which no federation has
    images: bool = False  # it crops or turns samples, say: others are refused when the data are known, before round 1
    uses: tuple[str, ...] | None = None

    def check(self, name: str, experiment: Settings) -> None:
        """Raise InputError if the experiment does not give what is needed."""
        data = experiment.data
        if self.shared_data and experiment.train.accumulate > 1:
            raise InputError(f"train.accumulate: {name} takes a step on each batch that its peers speak of: set it to 1")
        lacks = {
            "labels: set data.labelled above 0": self.labels and data.labelled == 0,
            "a public set: set data.public to its size": self.public and not (data.public or data.public_source),
            "a labelled validation set: set data.validation to its size": self.validation and not data.validation,
            "the same net at all clients: name one in nets": self.equal_nets and len(experiment.architectures) > 1,
            "the clients' net at the server too: leave server_net away": self.equal_nets
            and experiment.server_net not in ("", *experiment.architectures),
            "a server net: set server_net": self.server_net and not experiment.server_net and not experiment.nets,
            'the same samples at all clients: set data.partition = "shared"': self.shared_data and data.partition != "shared",
            'the samples of all clients at the server, and with data.partition = "own" they stay at the clients: take public '
            "samples (data.public) or another strategy": self.pooled_data and data.partition == EACH_ITS_OWN,
        }
        if lack := next((text for text, missing in lacks.items() if missing), ""):
            raise InputError(f"strategy: {name} needs {lack}")

    def check_samples(self, name: str, source: Source) -> None:
        """Raise InputError if the data are not of the kind that is needed."""
        if self.images and source.kind.name != "image":
            held = f"data.source {source.name!r} holds samples of kind {source.kind.name!r}"
            raise InputError(f"strategy: {name} needs images, and {held}: take other data, or another strategy")

    def __str__(self) -> str:
        return ", ".join(name.replace("_", " ") for name, needed in vars(self).items() if needed is True) or "nothing"


@dataclass(frozen=True)
class Algorithm(ABC):
    """The paper's client box and server box. Subclasses are final, frozen dataclasses of hyperparameters.

    ``experiment``, here and at clients and server, are its settings: every key but the strategy. What two algorithms share
    becomes a function of ``fedkd.methods``, never a method here.
    """

    paper: ClassVar[str]  # authors, title, venue, number
    sends: ClassVar[str]  # what travels, in words
    needs: ClassVar[Needs] = Needs()
    #: Whether an upload still makes sense a round later: not where it speaks of that round's public samples.
    outlives_its_round: ClassVar[bool] = True
    #: Whether clients' nets are compared on the global test set: agreement, their ensemble. Their logits there are sent.
    compares_clients: ClassVar[bool] = False
    #: Whether others are held against it: it holds out the public and validation samples that they use and it does not.
    is_baseline: ClassVar[bool] = False
    #: Where the net that can teach other runs stands in what is broadcast: a prefix of its names; "" = it is all.
    teaches: ClassVar[str] = ""
    #: Where its fields do nothing, or what ``needs`` names: conditions of ``fedkd.experiment.algorithm.conditions``, by name.
    idle: ClassVar[Idle] = MappingProxyType({})
    #: Earlier names of its fields -> those of today: experiments written down with them still run.
    renamed: ClassVar[Mapping[str, str]] = MappingProxyType({})

    @abstractmethod
    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """One exchange at one client: what the server said -> what this client answers."""

    @abstractmethod
    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge | Mapping[int, Knowledge]:
        """Uploads by client id, in order -> the next broadcast, one for all or one per client id."""

    @abstractmethod
    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Predictor]:
        """What is evaluated at a client or at the server, by name; the first is the headline. Empty: nothing here."""

    def first_broadcast(self, server: Server) -> Knowledge | Mapping[int, Knowledge]:
        """What clients get before round 1, one for all or one per client id. Default: nothing."""
        return Knowledge()

    def scored_with(self, server: Server) -> Knowledge:
        """What clients get beside the broadcast when they are asked to evaluate, for ``predictors`` alone. Default: nothing.

        A part of their net that stays at the server, say, under names that no broadcast has. It counts as evaluation_bytes.
        Whoever else scores a client, as an audit does, may lack it.
        """
        return Knowledge()

    def broadcast_again(self, server: Server) -> Knowledge | Mapping[int, Knowledge] | None:
        """What clients get after a broadcast that all failed on. The server is as it was before. Default: what they got then.

        A strategy that broadcasts changes gives the whole here: clients may have taken up the one that is withdrawn.
        """
        return None

    def check(self, experiment: Settings) -> None:
        """Raise InputError if the experiment does not give what is needed. Default: ``needs``, the same for every setting."""
        self.needs.check(type(self).__name__, experiment)

    def check_samples(self, node: Node) -> None:  # noqa: B027 (most have nothing to add to ``needs``)
        """Raise InputError if it cannot be used on the samples and nets at hand. Asked by the server before round 1."""

    def exchanges_per_round(self, experiment: Settings) -> int:
        """How many down/up trips a round has. Default: one."""
        return 1

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """What this client's upload in ``server.exchange`` must hold. Default: the tensors of its first broadcast."""
        first = server.live(f"first broadcast {server.exchange}", lambda: self.first_broadcast(server))
        if not isinstance(first, Knowledge):
            return schema_of(first[client])
        return server.live(f"schema of uploads {server.exchange}", lambda: schema_of(first))

    def check_upload(self, server: Server, upload: Knowledge) -> None:  # noqa: B027 (most have nothing to add)
        """Raise ValueError on an upload that fits the schema and still contradicts itself. Default: none does."""

    def uplink(self, experiment: Settings) -> tuple[str, ...]:
        """The codecs of uploads. Default: the experiment's."""
        return experiment.uplink

    def downlink(self, experiment: Settings) -> tuple[str, ...]:
        """The codecs of broadcasts. Default: the experiment's."""
        return experiment.downlink
