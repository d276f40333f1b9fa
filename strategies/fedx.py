"""FedX: unsupervised federated learning with cross knowledge distillation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from fedkd import Batch, Client, Embedder, Knowledge, Node, Positive, Server, Strategy, broadcast_net, fit, load
from fedkd.aggregate import weighted_mean
from fedkd.contrastive import BASES, Views
from fedkd.losses import nt_xent_loss, relational_loss
from fedkd.nets import Net

HEADS = ("projection", "prediction")


@final
@dataclass(frozen=True)
class FedX(Strategy):
    """A local contrastive and a local relational term, and the same two against the frozen global net: all weigh 1.

    Paper: Han et al., "FedX: Unsupervised Federated Learning with Cross Knowledge Distillation", ECCV 2022, arXiv 2207.09158.
    What travels: encoder, both heads and buffers, down and up; |θ| elements each. The "cross" distillation is local: the
    teacher is the global net as received this round.
    The defaults are what the official repository computes. It calls its relational loss JSD, but computes the reverse,
    ½KL(m‖a) + ½KL(m‖b), with gradients into the target m: ``divergence`` and ``detach_target`` choose. Its global contrastive
    term is one-sided (first view against the teacher's second), kept here.
    Deviations, each a defect of that repository: any batch may be the last (no client without a step); weights are those of
    the round's participants; ``train.batch_size`` is the number of images (64 there, printed as 128), of which 3 forwards each
    are made; integer counters are not averaged.
    """

    temperature: Positive = 0.1  # of NT-Xent, and of the student's relations
    local_target_temperature: Positive = 0.1  # of the local relational target (the repository's --ts)
    global_target_temperature: Positive = 0.1  # of the global relational target (the repository's --tt)
    divergence: Literal["reverse_kl", "jsd"] = "reverse_kl"
    detach_target: bool = False
    base: Literal["simclr"] = "simclr"  # what gives the local contrastive term: a name in fedkd.contrastive.BASES

    paper: ClassVar[str] = "Han et al., ECCV 2022, arXiv 2207.09158"
    sends: ClassVar[str] = "weights and buffers of encoder and both heads, both ways"

    def first_broadcast(self, server: Server) -> Knowledge:
        """The shared initial weights."""
        return Knowledge.of("weights", server.net(heads=HEADS).state_dict())

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs against the frozen global net. Anchors come from a second, independent stream over the same data."""
        net, teacher, base = client.net(heads=HEADS), client.net("teacher", heads=HEADS), BASES[self.base](self.temperature)
        load(net, broadcast.tensors)
        load(teacher, broadcast.tensors)
        teacher.eval().requires_grad_(False)
        anchors, state = client.train.stream("anchors"), base.start(client, net)

        def loss(net: Net, batch: Batch) -> dict[str, Tensor]:
            images = torch.cat([batch.view(1), batch.view(2), next(anchors).view(1)])  # (2B + A, C, H, W)
            parts = [len(batch), len(batch), len(images) - 2 * len(batch)]
            projected = net.head("projection", net.features(images))  # z: (2B + A, 256)
            with torch.no_grad():  # the teacher's first view is in no term
                taught = teacher.head("projection", teacher.features(images[len(batch) :]))
            z1, z2, zr = projected.split(parts)
            p1, p2, _ = net.head("prediction", projected).split(parts)
            g2, gr = taught.split(parts[1:])
            own = self._relations(z1, z2, zr, self.local_target_temperature)
            cross = self._relations(p1, p2, gr, self.global_target_temperature)
            distance = nt_xent_loss(p1, g2, temperature=self.temperature)
            return {
                **base.loss(state, Views(z1, z2)),
                "global_contrastive": distance,
                "local_relational": own,
                "global_relational": cross,
            }

        losses = fit(net, client.train, loss, after_step=lambda: base.after_step(state, net))
        return Knowledge.of("weights", net.state_dict(), weight=client.samples, metrics=losses)

    def _relations(self, a: Tensor, b: Tensor, anchors: Tensor, target: float) -> Tensor:
        loss = partial(relational_loss, divergence=self.divergence, detach_target=self.detach_target)
        return loss(a, b, anchors, temperature=self.temperature, target_temperature=target)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The mean, weighted by sample counts."""
        return weighted_mean(uploads)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Embedder]:
        """The global encoder's features h, before the heads."""
        return {"encoder": Embedder(broadcast_net(node, broadcast, heads=HEADS).features)}
