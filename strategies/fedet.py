"""Fed-ET: clients' small nets, weighted by how sure they are, teach a larger net at the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, ClassVar, final

import torch
import torch.nn.functional as F
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
    Strategy,
    TensorSpec,
    broadcast_net,
    classifier,
    fit,
    load,
)
from fedkd.aggregate import equal_scales, masked_mean, mean, variance_weights, weighted_mean
from fedkd.experiment.algorithm.optimizer_state import trainable
from fedkd.losses import cross_entropy_loss
from fedkd.methods import architecture_groups as groups
from fedkd.methods.public_distillation import predict_public
from fedkd.methods.shared_classifier import check_classifiers, classifier_of, put_classifier
from fedkd.nets import Net

Steps = Annotated[int, Field(ge=1)]


@final
@dataclass(frozen=True)
class FedET(Strategy):
    """Clients train and return weights; the server's net learns their consensus on public samples, and who differs.

    Paper: Cho et al., "Heterogeneous Ensemble Knowledge Transfer for Training Large Models in Federated Learning",
    IJCAI 2022, arXiv 2204.12703.
    What travels: weights and buffers of the client's architecture g, down and up; |θ_g| elements each. Public samples
    and the server's net stay at the server.
    Each round, for public samples x and clients' logits z_k, of which the variance over classes makes weights:
        w_k(x) = Var_c(z_k(x)) / sum over j of Var_c(z_j(x)),   label y(x) = argmax of sum_k w_k z_k
        others(x) = sum_k w_k z_k over the clients whose argmax is not y, their weights brought to a sum of one
        the server's net descends   CE(s(x), y) + lambda KL(softmax(others(x)) || softmax(s(x)))
    The last layer, the same in all nets, starts at the server as the mean of the clients' and goes back to them; below
    it each architecture is averaged alone. Nets may differ, also from ``server_net``, but not in the width of features.
    The paper has no code; what its text leaves open is as in an unofficial implementation: plain means, the steps and
    their SGD with momentum 0.9, and the last linear layer as the layer that is shared.
    Deviations from that: where all clients agree the second term is left out for the sample, there it pulls to uniform;
    no client architecture stands for the server's net. Nets whose logits are not finite do not teach, nor count in a
    mean. Variances grow with the scale of logits: with ``scaled`` each client's are first brought to one scale, which
    is ours.
    """

    diversity_weight: NonNegative = 0.05  # lambda
    steps: Steps = 128  # of the server's net, each round
    batch_size: Steps = 64  # public samples a step
    lr: Positive = 0.005  # of the server's SGD
    scaled: bool = False  # whether clients' logits are divided by their spread before they are weighed

    paper: ClassVar[str] = "Cho et al., IJCAI 2022, arXiv 2204.12703"
    sends: ClassVar[str] = "weights and buffers, both ways, by architecture"
    needs: ClassVar[Needs] = Needs(labels=True, public=True, server_net=True)

    def check_samples(self, node: Node) -> None:
        """Refuse nets whose last layers differ."""
        check_classifiers(node, node.experiment.server_net or node.experiment.architectures[0])

    def first_broadcast(self, server: Server) -> Mapping[int, Knowledge]:
        """Each architecture's shared initial weights."""
        return groups.weights_of_groups(server)

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """Weights and buffers of the client's architecture."""
        return groups.weights_schema(server, client)

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs of cross-entropy, from the weights of the client's architecture."""
        return groups.train_received(client, broadcast)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Mapping[int, Knowledge]:
        """The consensus is taught to the server's net, whose last layer then tops each architecture's mean."""
        answers: dict[int, Tensor] = {}
        layers: list[dict[str, Tensor]] = []
        for client, teacher in groups.clients_nets(server, {k: upload.tensors for k, upload in uploads.items()}):
            logits = predict_public(teacher, server.public)
            if logits.isfinite().all():
                answers[client] = logits
                layers.append({name: tensor.clone() for name, tensor in classifier_of(teacher).items()})
        if not answers:
            return {}
        student = server_net(server)
        put_classifier(student, {name: mean(torch.stack([layer[name] for layer in layers])) for name in layers[0]})
        labels, others, differ = self._consensus(server, answers)
        server.report(self._distil(server, student, labels, others, differ))
        for architecture in server.experiment.architectures:
            own = {k: uploads[k] for k in answers if server.architecture_of(k) == architecture}
            net = groups.group_net(server, architecture)
            if own:
                load(net, weighted_mean(own, weights=[1.0] * len(own)).tensors)
            put_classifier(net, classifier_of(student))
        return groups.weights_of_groups(server)

    def _consensus(self, server: Server, answers: Mapping[int, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        logits = torch.stack([answers[client] for client in sorted(answers)])  # (K, P, C)
        logits = equal_scales(logits) if self.scaled else logits
        consensus, others, differ = consensus_and_others(logits)
        server.show_teaching(answers, consensus, server.public)
        return consensus.argmax(1), others, differ

    def _distil(self, server: Server, net: Net, *targets: Tensor) -> dict[str, float]:
        def loss(net: Net, batch: Batch, labels: Tensor, others: Tensor, differ: Tensor) -> dict[str, Tensor]:
            logits, places = net(batch.inputs), batch.positions  # (B, C), (B,)
            diversity = divergence_where(logits, others[places], differ[places])
            return {
                "consensus": cross_entropy_loss(logits, labels[places]),
                "diversity": self.diversity_weight * diversity,
            }

        public = server.public
        sgd = torch.optim.SGD(trainable(net, public.work.where), lr=self.lr, momentum=0.9)
        batches = self.steps * public.work.settings.accumulate
        draws = [*islice(public.passes(self.batch_size, public.rng("passes")), batches)]
        return fit(net, public, loss, given=tuple(t.to(server.device) for t in targets), optimizer=sgd, draws=draws)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The server's large net; at a client the net of its group."""
        if isinstance(node, Server):
            return {"server": classifier(server_net(node))}
        return {"group": classifier(broadcast_net(node, broadcast))}


def server_net(server: Server) -> Net:
    """The net that the server trains and keeps."""
    return server.net("server", keep=True)


# ---- what clients say together


def consensus_and_others(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What clients say weighted by how sure each is, and what those say who name another class than that.

    Args:
        logits: (K, P, C).

    Returns:
        (P, C) of all; (P, C) of those who differ, zeros where nobody does; (P,) bool, whether anybody does.

    >>> said = torch.tensor([[[3.0, -3.0]], [[-1.0, 1.0]]])  # variances 9 and 1
    >>> [part.tolist() for part in consensus_and_others(said)]
    [[[2.5999999046325684, -2.5999999046325684]], [[-1.0, 1.0]], [True]]
    """
    weights = variance_weights(logits)  # (K, P)
    consensus = mean(logits, weights)
    differs = logits.argmax(2) != consensus.argmax(1)  # (K, P)
    others, who = masked_mean(logits, weights * differs)
    return consensus, others, who > 0


def divergence_where(student: Tensor, teacher: Tensor, counts: Tensor) -> Tensor:
    """KL(teacher || student) of logits (B, C), a mean over all B samples; 0 for those that do not count, (B,) bool."""
    log_s, log_t = student.float().log_softmax(1), teacher.float().log_softmax(1)
    divergences = F.kl_div(log_s, log_t, reduction="none", log_target=True).sum(1)  # (B,)
    return torch.where(counts, divergences, 0.0).mean()
