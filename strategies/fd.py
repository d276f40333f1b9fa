"""FD: clients exchange their mean output for each label, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from fedkd import (
    Batch,
    Classifier,
    Client,
    Knowledge,
    Needs,
    Node,
    NonNegative,
    Server,
    Strategy,
    TensorSpec,
    classifier,
    fit,
)
from fedkd.aggregate import leave_one_out, masked_mean, stack
from fedkd.losses import soft_cross_entropy
from fedkd.methods.class_means import ClassMeans
from fedkd.nets import Net


@final
@dataclass(frozen=True)
class FD(Strategy):
    """Each sample is taught its label and what the other clients' nets gave, on average, for samples of that label.

    Paper: Jeong et al., "Communication-Efficient On-Device Machine Learning: Federated Distillation and Augmentation
    under Non-IID Private Data", arXiv 1811.11479; formulas as usually stated, without FAug, the generator of missing
    samples.
    What travels: 4 C² + 4 C bytes up (mean softmax outputs by label, and of how many) and 4 C² down for each client and
    round, C classes. Nets may differ. A row of zeros stands for no outputs. Under [privacy] of how many is not sent:
    all counts are 1. The outputs are those of the round's training steps, of all epochs, so no pass over the samples is
    added. A class that no other client holds has no teacher: its samples are taught their label only, as are all in the
    first round.
    The optimiser is new each round.
    Deviations: a client that did not take part in a round is taught the mean over all who did, and owners of a class
    are those among the round's participants. gamma's value in the paper could not be verified.
    """

    gamma: NonNegative = 1.0  # weight of the distillation term

    paper: ClassVar[str] = "Jeong et al. 2018, arXiv 1811.11479"
    sends: ClassVar[str] = "mean outputs by label, both ways"
    needs: ClassVar[Needs] = Needs(labels=True)

    def first_broadcast(self, server: Server) -> Knowledge:
        """No averages yet."""
        return Knowledge.of("probabilities", {"averages": torch.zeros(server.classes, server.classes)})

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """A row for each label, and of how many outputs it is the mean."""
        classes = server.classes
        averages = TensorSpec((classes, classes), torch.float32, "probabilities")
        return {"averages": averages, "counts": TensorSpec((classes,), torch.int32, "counts")}

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs on the client's own net, kept in its memory; outputs are averaged on the way."""
        net, data = client.net(init="own", keep=True), client.train.labelled()
        teachers = broadcast.tensors["averages"].to(client.device)  # (C, C)
        own = ClassMeans(classes=client.classes, width=client.classes, device=client.device)

        def loss(net: Net, batch: Batch, teachers: Tensor, own: ClassMeans) -> dict[str, Tensor]:
            logits = net(batch.inputs)  # (B, C)
            own.add(logits.detach().softmax(1, dtype=torch.float32), batch.labels)
            return {
                "cross_entropy": batch.cross_entropy(logits),
                "distillation": self.gamma * soft_cross_entropy(logits, teachers[batch.labels]),
            }

        losses = fit(net, data, loss, given=(teachers, own))
        upload = Knowledge.of("probabilities", {"averages": own.values()}, weight=len(data), metrics=losses)
        return upload.with_tensors("counts", {"counts": own.counts()})

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Mapping[int, Knowledge]:
        """For every client the mean over the other owners of each label, all counting the same."""
        averages = stack(uploads, "averages")  # (K, C, C)
        owned = (stack(uploads, "counts") > 0) & (averages != 0).any(-1)  # (K, C)
        teachers, _ = leave_one_out(averages, owned)
        of_all = Knowledge.of("probabilities", {"averages": masked_mean(averages, owned)[0]})
        of_others = {
            client: Knowledge.of("probabilities", {"averages": rows})
            for client, rows in zip(sorted(uploads), teachers, strict=True)
        }
        return {client: of_others.get(client, of_all) for client in server.clients}

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """A client's own net; the server has none."""
        return {"main": classifier(node.net(init="own", keep=True))} if isinstance(node, Client) else {}
