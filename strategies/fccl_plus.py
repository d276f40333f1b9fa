"""FCCL+: clients also agree on which public samples are alike, and at home keep the order of wrong classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from fedkd import (
    Batch,
    Classifier,
    Client,
    Knowledge,
    Needs,
    Node,
    NonNegative,
    Positive,
    Server,
    Settings,
    Strategy,
    TensorSpec,
    classifier,
    fit,
    load,
)
from fedkd.experiment.algorithm.conditions import Beyond, Idle, Unless
from fedkd.experiment.algorithm.optimizer_state import trainable
from fedkd.losses import fccl_loss, instance_similarities, instance_similarity_loss, not_true_loss
from fedkd.methods.peers.all_outputs import AllOutputs, PeerOutputs
from fedkd.methods.peers.lockstep import Peer, check_batch, outputs_schema, take_turn
from fedkd.methods.peers.public_batches import exchanges_over_public, first_steps, mean_outputs, public_batches
from fedkd.methods.peers.turns import Plan
from fedkd.methods.public_distillation import train_on_labels
from fedkd.nets import Net

#: In a client's memory: whether it has finished a round.
TRAINED = "fccl_plus/trained"


@final
@dataclass(frozen=True)
class FCCLPlus(Strategy):
    """Correlate and compare on public batches; then learn own labels and, of the last net, the wrong classes' order.

    Paper: Huang et al., "Generalizable Heterogeneous Federated Cross-Correlation and Instance Similarity Learning",
    IEEE TPAMI 2023, arXiv 2309.16286.
    What travels: for each public batch and client 4 B (C + B - 1) bytes up and as many down, logits and the cosines of
    each sample's features with those of the others, and the means of both over all clients; in one exchange more than
    batches. Nets may differ. Each round:
        public batches   sum_u (M_uu - 1)^2 + off_diagonal_weight * sum over u != v of (M_uv + 1)^2
                         + similarity_weight * KL(softmax(mean cosines / T_s) || softmax(own cosines / T_s))
        own samples      CE + T^2 KL(net at the end of its last round || net), both without the true class
    M is the correlation over the batch, class by class, of a client's logits and the mean of all (``fccl_loss``). Other
    than in FCCL that mean holds a client's own present logits, there is no net trained alone, and no warm-up.
    The step on a public batch is Adam's first, from an optimiser new for each batch, as in the official code: every
    weight moves by nearly ``public_lr``, unless its gradient is tiny. Its epsilon is 3e-4, not 1e-8: the
    correlation sees no offset, so the last bias's gradient is rounding, which is not to become a step. The
    optimiser of the own epochs is that of [train], new each round; there Adam, lr 0.001.
    On digits with two kinds of nets both terms that are not FCCL's lost at their weights there, 3 and 1, and did no
    harm at 0.1 each.
    Deviations from the official code (the paper's text was not at hand): the classes that are not true are a
    distribution of their own, as in FedNTD; there they are parts of one over all classes, and that sum, which may be
    negative, also pushes the true class down. In its first participation a client has no net of last time; there it is
    the net's random start. Features come from the pass that gives the logits, so batch statistics move once; there they
    are computed apart, and move twice. A class whose logits are all the same counts as uncorrelated, there it makes the
    net NaN. Learning rates do not decay linearly, and equal nets are not averaged: that is a setting of its own there.
    """

    public_samples: Annotated[int, Field(ge=0)] = (
        5000  # P, the same ones in all rounds; 0 = all, fewer where there are fewer
    )
    public_batch_size: Annotated[int, Field(ge=2)] = 256  # B
    public_lr: Positive = 1e-3  # of Adam, on public batches
    off_diagonal_weight: NonNegative = 0.0051  # lambda of the correlations between different classes
    similarity_weight: NonNegative = 3.0  # of how alike public samples are
    similarity_temperature: Positive = 0.02  # T_s
    weight: NonNegative = 1.0  # of the distillation from the client's last net
    temperature: Positive = 3.0  # T of that distillation

    paper: ClassVar[str] = "Huang et al., IEEE TPAMI 2023, arXiv 2309.16286"
    sends: ClassVar[str] = "logits and similarities of public mini-batches, both ways"
    needs: ClassVar[Needs] = Needs(labels=True, public=True)
    outlives_its_round: ClassVar[bool] = False
    idle: ClassVar[Idle] = {
        "public_samples": (Beyond("public_samples"),),
        "similarity_temperature": (Unless(similarity_weight=0),),
        "temperature": (Unless(weight=0),),
    }

    def exchanges_per_round(self, experiment: Settings) -> int:
        """One a public batch, and one."""
        return exchanges_over_public(experiment, self.public_samples, self.public_batch_size)

    def _batches(self, node: Node) -> Plan:
        return public_batches(node, self.public_samples, self.public_batch_size)

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """Logits and similarities of this exchange's batch; nothing in the last exchange."""
        batches = self._batches(server)
        if server.exchange == len(batches.turns):
            return {}
        others = len(batches.draws[server.exchange].positions) - 1
        shapes = {"logits": (server.classes,), "similarities": (others,)}
        return outputs_schema(server, client, shapes, over=batches)

    def check_upload(self, server: Server, upload: Knowledge) -> None:
        """The batch must be everybody's, and cosines lie between -1 and 1."""
        check_batch(server, upload, over=self._batches(server))
        similarities = upload.tensors.get("similarities")
        if similarities is not None and float(similarities.abs().max()) > COSINE_BOUND:
            raise ValueError(f"its similarities reach {float(similarities.abs().max()):g}, and cosines are at most 1")

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Learn from one public batch, upload what is said of the next; after the last one, epochs on own samples."""
        net, data, batches = client.net(init="own", keep=True), client.train.labelled(), self._batches(client)
        upload = replace(take_turn(client, broadcast, self._peer(client, net), over=batches), weight=len(data))
        if client.exchange < len(batches.turns):
            return upload
        last = client.net("last", keep=True).eval().requires_grad_(False)
        losses = (
            fit(net, data, self._own_loss, given=(last,)) if TRAINED in client.memory else train_on_labels(net, data)
        )
        load(last, net.state_dict())
        client.memory[TRAINED] = 1
        public = {name: value for name, value in upload.metrics.items() if name in ("correlation", "relation")}
        return replace(upload, metrics={**public, **losses})

    def _peer(self, client: Client, net: Net) -> Peer:
        def forward(batch: Batch) -> dict[str, Tensor]:
            features = net.features(batch.inputs)  # (B, D)
            return {
                "logits": net.head("classifier", features),
                "similarities": instance_similarities(features),
                "features": features,
            }

        def loss(own: PeerOutputs, peers: AllOutputs, batch: Batch) -> dict[str, Tensor]:
            logits, cosines = peers.beside["logits"], peers.beside["similarities"]  # (B, C), (B, B - 1)
            relation = instance_similarity_loss(own["features"], cosines, temperature=self.similarity_temperature)
            return {
                "correlation": fccl_loss(own["logits"], logits, off_diagonal_weight=self.off_diagonal_weight),
                "relation": self.similarity_weight * relation,
            }

        weights, lr = trainable(net, client.work().where), self.public_lr
        return Peer(net, forward, loss, withheld=("features",), optimizer=partial(first_steps, weights, lr))

    def _own_loss(self, net: Net, batch: Batch, last: Net) -> dict[str, Tensor]:
        logits = net(batch.inputs)  # (B, C)
        with torch.no_grad():
            taught = last(batch.inputs)
        not_true = not_true_loss(logits, taught, batch.labels, temperature=self.temperature)
        return {"cross_entropy": batch.cross_entropy(logits), "not_true": self.weight * not_true}

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The mean of what all say of the batch."""
        batches = self._batches(server)
        return Knowledge() if server.exchange == len(batches.turns) else mean_outputs(server, uploads, batches)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """A client's own net; the server has none."""
        return {"main": classifier(node.net(init="own", keep=True))} if isinstance(node, Client) else {}


#: Half precision and 8-bit codecs go a little beyond 1.
COSINE_BOUND = 1.02
