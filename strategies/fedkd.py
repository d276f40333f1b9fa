"""FedKD: a large private mentor and a small shared mentee; only low-rank updates of the mentee travel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, final

from pydantic import Field
from torch import Tensor

from fedkd import (
    Batch,
    Classifier,
    Client,
    Experiment,
    Knowledge,
    Needs,
    Node,
    NonNegative,
    Server,
    Strategy,
    TensorSpec,
    classifier,
)
from fedkd.aggregate import weighted_mean
from fedkd.knowledge.codecs.lowrank import compress
from fedkd.losses import cross_entropy_loss, kd_loss, logit_mse
from fedkd.methods.compressed_updates import (
    advance,
    all_weights,
    catch_up,
    check_downlink,
    difference,
    parts_schema,
    update_from,
)
from fedkd.methods.mutual import feature_map, fit_together, keep_feature_map, shared_net

Energy = Annotated[float, Field(gt=0, le=1)]


@final
@dataclass(frozen=True)
class FedKD(Strategy):
    """Mentor and mentee teach each other, the more the better both already are; the mentee's change is cut to low rank.

    Paper: Wu et al., "Communication-efficient federated learning via knowledge distillation", Nature Communications 13 (2022),
    arXiv 2108.13323. For either net, q the other's prediction, H features and W a linear map from mentee to mentor:
        L = CE + (KL(q || p) + MSE(H_mentor, W H_mentee)) / (CE_mentor + CE_mentee)
    What travels: the change of the mentee (``shared_net``, default the server's net) in this round up, the mean change down:
    4 r (m + n + 1) bytes for a tensor (m, n) cut to rank r, whole where that is not less; r is the smallest that holds more
    than a share e of the squares, e rising from ``e_start`` to ``e_end``. Who missed a round is sent all weights.
    At the client stay the mentor, and the state of one optimiser over both nets and W: as in the official code an update
    overwrites the mentee's weights and leaves its moments as they are. ``accuracy`` is the mentee's, ``client_accuracy`` that
    of the mentors. A lossy ``downlink`` may lose something of an update: the server's mentee moves by what clients read of it.
    All weights are sent to the bit.
    Deviations, most for defects of the official code: teachers and the sum of cross-entropies are constants; KL is averaged
    over the batch, not over classes too (``kl`` = 1 / C is that); W is trained; a flat spectrum is not cut to rank 0; buffers
    travel; features are the last layer's, attentions are not compared. ``least`` bounds the weight 1 / sum, which grows without
    end. Optimiser and rate are those of [train]; the code has Adam at 3e-6, for nets that are trained already.
    """

    kl: NonNegative = 1.0  # weight of the divergence between the predictions
    hidden: NonNegative = 1.0  # weight of the distance between the features, where both nets have features
    e_start: Energy = 0.95  # T_start
    e_end: Energy = 0.98  # T_end
    least: Annotated[float, Field(gt=0)] = 0.1  # ours

    paper: ClassVar[str] = "Wu et al., Nature Communications 2022, arXiv 2108.13323"
    sends: ClassVar[str] = "low-rank updates of a shared net, both ways"
    needs: ClassVar[Needs] = Needs(labels=True, uses=("server_net", "shared_net"))

    def check(self, experiment: Experiment) -> None:
        """All clients must read the same of an update."""
        self.needs.check(type(self).__name__, experiment)
        check_downlink(self.downlink(experiment), experiment)

    def first_broadcast(self, server: Server) -> Knowledge:
        """All weights of the mentee."""
        return all_weights(shared_net(server, keep=True))

    def broadcast_again(self, server: Server) -> Knowledge:
        """All weights, whatever a client has heard since."""
        return all_weights(shared_net(server, keep=True), int(server.memory.get("version", 0)))

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """The mentee's tensors, whole or in factors."""
        return parts_schema(shared_net(server, keep=True))

    def check_upload(self, server: Server, upload: Knowledge) -> None:
        """The parts must make up an update."""
        update_from(upload.tensors, shared_net(server, keep=True).state_dict())

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Bring the stored mentee up to date, train both nets, send how the mentee changed."""
        start, data = catch_up(client.memory, broadcast), client.train.labelled()
        mentor, mentee = client.net(init="own", keep=True), shared_net(client, start)
        nets = {"mentor": mentor, "mentee": mentee, **feature_map(client, mentee, mentor)}
        losses = fit_together(client, nets, data, self._loss)
        keep_feature_map(client, nets)
        change = {name: difference(tensor.cpu(), start[name]) for name, tensor in mentee.state_dict().items()}
        return Knowledge.of("weights", compress(change, self._energy(client)), weight=len(data), metrics=losses)

    def _loss(self, nets: Any, batch: Batch) -> dict[str, Tensor]:
        """The adaptive mutual loss of a batch; teachers are constants."""
        hidden_t, hidden_s = (nets[name].encoded(batch.images) for name in ("mentor", "mentee"))  # (B, D_t), (B, D_s)
        mentor, mentee = nets["mentor"].head("classifier", hidden_t), nets["mentee"].head("classifier", hidden_s)  # (B, C)
        wrong_t, wrong_s = (cross_entropy_loss(logits, batch.labels) for logits in (mentor, mentee))
        trust = 1 / (wrong_t + wrong_s).detach().clamp_min(self.least)
        parts = {"mentor_cross_entropy": wrong_t, "mentee_cross_entropy": wrong_s}
        parts["mentor_distillation"] = trust * self.kl * kd_loss(mentor, mentee, temperature=1.0)
        parts["mentee_distillation"] = trust * self.kl * kd_loss(mentee, mentor, temperature=1.0)
        if "map" in nets:
            mapped = nets["map"](hidden_s)
            parts["mentor_hidden"] = trust * self.hidden * logit_mse(hidden_t, mapped)
            parts["mentee_hidden"] = trust * self.hidden * logit_mse(mapped, hidden_t)
        return parts

    def _energy(self, node: Node) -> float:
        return self.e_start + (self.e_end - self.e_start) * node.round / node.experiment.rounds

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Mapping[int, Knowledge]:
        """The plain mean of the changes, cut to low rank again, moves the mentee on."""
        net = shared_net(server, keep=True)
        changes = {k: Knowledge.of("weights", update_from(u.tensors, net.state_dict())) for k, u in uploads.items()}
        change = weighted_mean(changes, weights=[1.0] * len(changes)).tensors
        return advance(server, net, compress(change, self._energy(server)), uploads)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The mentee at the server, its mentor at a client."""
        if isinstance(node, Server):
            return {"mentee": classifier(shared_net(node, keep=True))}
        return {"mentor": classifier(node.net(init="own", keep=True))}
