"""FCCL: clients bring their logits of public batches to go together, and at home do not forget it."""

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
from fedkd.experiment.algorithm.conditions import Beyond, Idle
from fedkd.experiment.algorithm.optimizer_state import trainable
from fedkd.losses import fccl_loss, kd_loss
from fedkd.methods.peers.all_outputs import AllOutputs, PeerOutputs
from fedkd.methods.peers.lockstep import Peer, check_batch, outputs_schema, take_turn
from fedkd.methods.peers.public_batches import exchanges_over_public, first_steps, means_of_others, public_batches
from fedkd.methods.peers.turns import Plan
from fedkd.methods.public_distillation import train_on_labels
from fedkd.nets import Net


@final
@dataclass(frozen=True)
class FCCL(Strategy):
    """Correlate with the others on public batches; then learn own labels, held back by two earlier nets of one's own.

    Paper: Huang et al., "Learn from Others and Be Yourself in Heterogeneous Federated Learning", CVPR 2022.
    What travels: for each public batch and client 4 B C bytes up and as many down, logits and the mean of the others'
    logits; 8 P C a round over P public samples of C classes, in one exchange more than batches. Nets may differ.
    Once, a client trains alone on its own samples, and keeps what it has become. Each round:
        public batches   sum_u (M_uu - 1)^2 + off_diagonal_weight * sum over u != v of (M_uv + 1)^2
        own samples      CE + weight * (KL(net trained alone || net) + KL(net at the end of its last round || net))
    M is the correlation over the batch, class by class, of a client's logits and the mean of all, in which its own are
    those of its net at the end of its last round (``fccl_loss``).
    The step on a public batch is Adam's first, from an optimiser new for each batch, as in the official code: every
    weight moves by nearly ``public_lr``, unless its gradient is tiny. Its epsilon is 3e-4, not 1e-8: the
    correlation sees no offset, so the last bias's gradient is rounding, which is not to become a step. The
    optimiser of the own epochs is that of [train], new each round; there Adam, lr 0.001.
    The method is for clients of different domains and public samples of another kind than theirs.
    Deviations from the official code (its paper was not at hand): a class whose logits are all the same counts as
    uncorrelated, there it makes the net NaN; one number of own epochs for all, there 3 to 40 by hand, and 40 alone; no
    decay of ``public_lr``, which FCCL+'s version of it has (there the mean also holds a client's own present logits).
    """

    public_samples: Annotated[int, Field(ge=0)] = (
        5000  # P, the same ones in all rounds; 0 = all, fewer where there are fewer
    )
    public_batch_size: Annotated[int, Field(ge=2)] = 256  # B
    public_lr: Positive = 1e-3  # of Adam, on public batches
    off_diagonal_weight: NonNegative = 0.0051  # lambda of the correlations between different classes
    weight: NonNegative = 1.0  # of the distillation from each of the client's two earlier nets
    warm_up_epochs: Annotated[int, Field(ge=1)] = 10  # on a client's own samples, before its first upload

    paper: ClassVar[str] = "Huang et al., CVPR 2022"
    sends: ClassVar[str] = "logits of public mini-batches, both ways"
    needs: ClassVar[Needs] = Needs(labels=True, public=True)
    outlives_its_round: ClassVar[bool] = False
    idle: ClassVar[Idle] = {"public_samples": (Beyond("public_samples"),)}

    def exchanges_per_round(self, experiment: Settings) -> int:
        """One a public batch, and one."""
        return exchanges_over_public(experiment, self.public_samples, self.public_batch_size)

    def _batches(self, node: Node) -> Plan:
        return public_batches(node, self.public_samples, self.public_batch_size)

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """Logits of this exchange's batch; nothing in the last exchange."""
        return outputs_schema(server, client, {"logits": (server.classes,)}, over=self._batches(server))

    def check_upload(self, server: Server, upload: Knowledge) -> None:
        """The batch must be everybody's."""
        check_batch(server, upload, over=self._batches(server))

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Learn from one public batch, upload logits of the next; after the last one, epochs on own samples."""
        net, data, batches = client.net(init="own", keep=True), client.train.labelled(), self._batches(client)
        alone, last = (client.net(name, keep=True) for name in ("alone", "last"))
        if "warm" not in client.memory:
            train_on_labels(net, data, epochs=self.warm_up_epochs)
            for earlier in (alone, last):
                load(earlier, net.state_dict())
            client.memory["warm"] = 1
        for earlier in (alone, last):
            earlier.eval().requires_grad_(False)
        upload = replace(take_turn(client, broadcast, self._peer(client, net, last), over=batches), weight=len(data))
        if client.exchange < len(batches.turns):
            return upload
        losses = fit(net, data, self._own_loss, given=(alone, last))
        load(last, net.state_dict())
        return replace(upload, metrics={"correlation": upload.metrics["correlation"], **losses})

    def _peer(self, client: Client, net: Net, last: Net) -> Peer:
        def loss(own: PeerOutputs, peers: AllOutputs, batch: Batch) -> dict[str, Tensor]:
            with torch.no_grad():
                before = last(batch.inputs)  # (B, C)
            share = 1 / max(1, len(peers.ids))
            target = share * before + (1 - share) * peers.beside["logits"]  # (B, C)
            return {"correlation": fccl_loss(own["logits"], target, off_diagonal_weight=self.off_diagonal_weight)}

        weights, lr = trainable(net, client.work().where), self.public_lr
        return Peer(net, lambda batch: {"logits": net(batch.inputs)}, loss, optimizer=partial(first_steps, weights, lr))

    def _own_loss(self, net: Net, batch: Batch, alone: Net, last: Net) -> dict[str, Tensor]:
        logits = net(batch.inputs)  # (B, C)
        parts = {"cross_entropy": batch.cross_entropy(logits)}
        for name, teacher in {"alone": alone, "last": last}.items():
            with torch.no_grad():
                taught = teacher(batch.inputs)
            parts[f"{name}_distillation"] = self.weight * kd_loss(logits, taught, temperature=1.0)
        return parts

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge | Mapping[int, Knowledge]:
        """To each client the mean of what the others say."""
        batches = self._batches(server)
        return Knowledge() if server.exchange == len(batches.turns) else means_of_others(server, uploads, batches)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """A client's own net; the server has none."""
        return {"main": classifier(node.net(init="own", keep=True))} if isinstance(node, Client) else {}
