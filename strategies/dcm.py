"""DCM: peers with classifiers at three depths; each learns from all those of the others on every mini-batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor, nn

from fedkd import Classifier, Client, Experiment, Knowledge, Needs, Node, NonNegative, Positive, Server, Strategy, TensorSpec
from fedkd.experiment.algorithm.train import Batch
from fedkd.methods.lockstep import Heard, Peer, Said, check_said, gather, said_schema, take_turn
from fedkd.methods.peer_heads import all_logits, auxiliary_classifiers, check_maps, crossed_distillation, summed_cross_entropy
from fedkd.methods.turns import exchanges


@final
@dataclass(frozen=True)
class DCM(Strategy):
    """K peers take the same batches; a net has two classifiers on its feature maps beside its own, and all three teach all.

    Paper: Yao and Sun, "Knowledge Transfer via Dense Cross-Layer Mutual-Distillation", ECCV 2020, arXiv 2008.07816.
    What travels: logits of three heads, 12 B C bytes up and K times that down for each batch and peer, and a hash of the batch.
        loss_i = sum over heads a of CE(z_ia, y)
               + weight / (K - 1) sum over j != i, heads a and b of T^2 KL(softmax(z_jb / T) || softmax(z_ia / T))
    Nine pairs of heads for each pair of nets and direction. What is heard is a constant. Defaults: T = 1, weight 1; the paper
    trains by SGD, 0.1, momentum 0.9, x 0.2 after 60, 120 and 160 of 200 epochs of 128 images.
    The auxiliary classifiers stand on the two maps before the last (resnet18: after the second and third stage), on both of a
    net with two. Nets need two maps: an mlp has none. Only the net's own classifier is evaluated. Nets and classifiers start
    different; these and the optimisers stay. Who fails leaves until the next round. A peer alone learns three cross-entropies.
    Deviations: the mean over the other nets where there are more than two; the official code has two. Its auxiliary classifiers
    are copies of the stages to come, ours one convolution, pooling and a linear layer. It smooths probabilities by 1e-8, here
    all is computed in logarithms.
    """

    temperature: Positive = 1.0  # T
    weight: NonNegative = 1.0  # of the distillation

    paper: ClassVar[str] = "Yao and Sun, ECCV 2020, arXiv 2008.07816"
    sends: ClassVar[str] = "logits of three classifiers of every mini-batch, both ways"
    needs: ClassVar[Needs] = Needs(labels=True, shared_data=True)
    outlives_its_round: ClassVar[bool] = False
    compares_clients: ClassVar[bool] = True

    def check(self, experiment: Experiment) -> None:
        """Nets with two feature maps."""
        self.needs.check(type(self).__name__, experiment)
        check_maps(experiment)

    def exchanges_per_round(self, experiment: Experiment) -> int:
        """One a batch, and one."""
        return exchanges(experiment)

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """Logits of this exchange's batch, of three heads."""
        return said_schema(server, client, {"logits": (3, server.classes)})

    def check_upload(self, server: Server, upload: Knowledge) -> None:
        """The batch must be everybody's."""
        check_said(server, upload)

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Learn from one batch, speak of the next."""
        net = client.net(init="own", keep=True)
        auxiliary = auxiliary_classifiers(client, net)

        def loss(said: Said, heard: Heard, batch: Batch) -> dict[str, Tensor]:
            mine, others = said["logits"], heard.others("logits")  # (B, 3, C), (K - 1, B, 3, C)
            return {
                "cross_entropy": summed_cross_entropy(mine, batch.labels),
                "distillation": self.weight * crossed_distillation(mine, others, temperature=self.temperature),
            }

        trained = nn.ModuleDict({"net": net, "auxiliary": auxiliary})
        peer = Peer(trained, lambda batch: {"logits": all_logits(net, auxiliary, batch.images)}, loss, self.weight)
        return take_turn(client, broadcast, peer)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge | Mapping[int, Knowledge]:
        """Stack the logits by peer."""
        return gather(server, uploads)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """A peer's own net without its auxiliary classifiers; the server has none."""
        return {"main": Classifier(node.net(init="own", keep=True).eval())} if isinstance(node, Client) else {}
