"""Local training: no exchange. The baseline that any federation must beat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from fedkd import Batch, Classifier, Client, Knowledge, Needs, Node, Server, Strategy, TensorSpec, classifier, fit
from fedkd.nets import Net


@final
@dataclass(frozen=True)
class Local(Strategy):
    """Each client trains its own net on its own samples, round after round, and sends nothing.

    Paper: none; the baseline of them all.
    What travels: nothing (0 bytes); nets may differ.
    ``accuracy`` is the mean over clients on the global test set, as no net is global. The optimiser is new each round,
    as at clients of FedAvg.
    """

    paper: ClassVar[str] = "none (baseline)"
    sends: ClassVar[str] = "nothing"
    needs: ClassVar[Needs] = Needs(labels=True)
    is_baseline: ClassVar[bool] = True

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """One round of cross-entropy on the client's own net, kept in its memory."""
        net = client.net(init="own", keep=True)
        data = client.train.labelled()

        def loss(net: Net, batch: Batch) -> dict[str, Tensor]:
            return {"cross_entropy": batch.cross_entropy(net(batch.inputs))}

        losses = fit(net, data, loss)
        return Knowledge(weight=len(data), metrics=losses)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """Nothing came, nothing goes."""
        return Knowledge()

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """A client's own net; the server has none."""
        return {"main": classifier(node.net(init="own", keep=True))} if isinstance(node, Client) else {}

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """No tensors."""
        return {}
