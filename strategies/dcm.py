"""DCM: peers with classifiers at three depths; each learns from all those of the others on every mini-batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from fedkd import Batch, Client, Knowledge, Needs, NonNegative, Positive, Server, Settings, TensorSpec
from fedkd.base.inputs import Inputs
from fedkd.experiment.algorithm.conditions import Idle, Unless
from fedkd.losses import cross_entropy_loss, kd_loss
from fedkd.methods.branches import example_input
from fedkd.methods.peers.all_outputs import AllOutputs, PeerOutputs
from fedkd.methods.peers.family import LockstepStrategy
from fedkd.methods.peers.lockstep import Peer, gather, outputs_schema
from fedkd.methods.peers.maps import check_maps, check_number
from fedkd.methods.peers.turns import UpdateName
from fedkd.nets import Net

#: So many maps that auxiliary classifiers stand on, and so many heads with the net's own.
MAPS, HEADS = 2, 3


@final
@dataclass(frozen=True)
class DCM(LockstepStrategy):
    """K peers take the same batches; a net has two classifiers on its feature maps beside its own: all three teach all.

    Paper: Yao and Sun, "Knowledge Transfer via Dense Cross-Layer Mutual-Distillation", ECCV 2020, arXiv 2008.07816.
    What travels: logits of three heads, 12 B C bytes up and K times that down for each batch and peer, and a hash of
    the batch.
        loss_i = sum over heads a of CE(z_ia, y)
               + weight / (K - 1) sum over j != i, heads a and b of T^2 KL(softmax(z_jb / T) || softmax(z_ia / T))
    Nine pairs of heads for each pair of nets and direction. The others' logits are constants. Defaults: T = 1, weight
    1; the paper trains by SGD, 0.1, momentum 0.9, x 0.2 after 60, 120 and 160 of 200 epochs of 128 images.
    The auxiliary classifiers stand on the two maps before the last (resnet18: after the second and third stage), on
    both of a net with two. Nets need two maps: an mlp has none. Only the net's own classifier is evaluated. Nets and
    classifiers start different; these and the optimisers stay. Who fails leaves until the next round. A peer alone
    learns three cross-entropies.
    Deviations: the mean over the other nets where there are more than two; the official code has two. Its auxiliary
    classifiers are copies of the stages to come, ours one convolution, pooling and a linear layer. It smooths
    probabilities by 1e-8, here all is computed in logarithms.
    """

    temperature: Positive = 1.0  # T of softened predictions
    weight: NonNegative = 1.0  # of the distillation

    paper: ClassVar[str] = "Yao and Sun, ECCV 2020, arXiv 2008.07816"
    sends: ClassVar[str] = "logits of three classifiers of every mini-batch, both ways"
    needs: ClassVar[Needs] = Needs(labels=True, shared_data=True)
    update: ClassVar[UpdateName] = "simultaneous"
    idle: ClassVar[Idle] = {"temperature": (Unless(weight=0),)}

    def check(self, experiment: Settings) -> None:
        """Nets with two feature maps."""
        self.needs.check(type(self).__name__, experiment)
        check_maps(experiment, MAPS)

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """Logits of this exchange's batch, of three heads."""
        return outputs_schema(server, client, {"logits": (HEADS, server.classes)}, self.update)

    def peer(self, client: Client) -> Peer:
        """A net with its auxiliary classifiers."""
        net = client.net(init="own", keep=True)
        auxiliary = auxiliary_classifiers(client, net)

        def loss(own: PeerOutputs, peers: AllOutputs, batch: Batch) -> dict[str, Tensor]:
            mine, others = own["logits"], peers.others("logits")  # (B, 3, C), (K - 1, B, 3, C)
            return {
                "cross_entropy": summed_cross_entropy(mine, batch.labels, batch.cross_entropy),
                "distillation": self.weight * crossed_distillation(mine, others, temperature=self.temperature),
            }

        trained = nn.ModuleDict({"net": net, "auxiliary": auxiliary})
        return Peer(trained, lambda batch: {"logits": all_logits(net, auxiliary, batch.inputs)}, loss, self.weight)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge | Mapping[int, Knowledge]:
        """Stack the logits by peer."""
        return gather(server, uploads, self.update)


def summed_cross_entropy(
    logits: Tensor, labels: Tensor, loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy_loss
) -> Tensor:
    """The sum over heads of their mean cross-entropies with labels (B,): logits (B, heads, C) -> ().

    >>> round(summed_cross_entropy(torch.zeros(2, 3, 10), torch.tensor([3, 7])).item(), 4)  # 3 log 10
    6.9078
    """
    heads = logits.shape[1]
    return heads * loss(logits.flatten(0, 1), labels.repeat_interleave(heads))


def crossed_distillation(mine: Tensor, others: Tensor, *, temperature: float) -> Tensor:
    """What each of my heads learns from each head of another net, summed over pairs of heads, a mean over other nets::

        1/(K - 1) sum_j sum_ab T^2 mean_n KL(softmax(z_jb / T) || softmax(z_a / T))

    Args:
        mine: (B, heads, C), z.
        others: (K - 1, B, heads, C), z_j; constants.
        temperature: T > 0.

    Returns:
        () float32 or better, at least 0; 0 where there is no other.

    >>> mine = torch.zeros(1, 3, 2)  # (1/2, 1/2) at three heads
    >>> other = torch.tensor([0.0, 3.0]).log1p().expand(1, 1, 3, 2)  # (1/5, 4/5) at three heads
    >>> round(crossed_distillation(mine, other, temperature=1.0).item(), 4)  # 9 (1/5 log(2/5) + 4/5 log(8/5))
    1.7347
    """
    if not len(others):
        return mine.sum() * 0
    B, heads, C = mine.shape
    pairs = (len(others), B, heads, heads, C)
    students = mine[None, :, :, None].expand(pairs)
    teachers = others[:, :, None].expand(pairs)
    return heads**2 * kd_loss(students.reshape(-1, C), teachers.reshape(-1, C), temperature=temperature)


# ---- the classifiers on feature maps


@final
class AuxiliaryClassifiers(nn.Module):
    """A small classifier on each of two feature maps: ReLU, 3x3 convolution, ReLU, average pooling, linear layer.

    Args:
        channels: c of each map; the convolutions have twice as many.
        classes: C.

    >>> AuxiliaryClassifiers((8, 16), 10)((torch.zeros(5, 8, 4, 4), torch.zeros(5, 16, 2, 2))).shape
    torch.Size([5, 2, 10])
    """

    def __init__(self, channels: Sequence[int], classes: int) -> None:
        super().__init__()
        self.classifiers = nn.ModuleList(
            nn.Sequential(
                *(nn.ReLU(), nn.Conv2d(c, 2 * c, 3, padding=1), nn.ReLU()),
                *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * c, classes)),
            )
            for c in channels
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits (B, 2, C) of maps (B, c, h, w) as they are before their ReLU."""
        return torch.stack([classify(each) for classify, each in zip(self.classifiers, maps, strict=True)], 1)


def intermediate(maps: Sequence[Tensor]) -> Sequence[Tensor]:
    """The two maps that classifiers stand on: those before the last, or the last two where there are no more.

    >>> [each.item() for each in intermediate(torch.arange(5.0).unbind())]
    [2.0, 3.0]
    """
    return maps[-MAPS - 1 : -1] if len(maps) > MAPS else maps[-MAPS:]


def all_logits(net: Net, auxiliary: AuxiliaryClassifiers, inputs: Inputs) -> Tensor:
    """Logits of the two classifiers on maps, then the net's own, in one pass: (B, C, H, W) -> (B, 3, classes)."""
    outputs = net.outputs(inputs)
    return torch.cat([auxiliary(intermediate(outputs.maps)), outputs.logits[:, None]], 1)


def auxiliary_classifiers(client: Client, net: Net) -> AuxiliaryClassifiers:
    """A client's own, with fresh weights or as kept in its memory. InputError for a net with fewer than two maps."""

    def build() -> AuxiliaryClassifiers:
        net.eval()  # one sample has no batch statistics, and none are to be kept
        with torch.no_grad():
            maps = net.outputs(example_input(client)).maps
        check_number(net.architecture, maps, MAPS)
        return AuxiliaryClassifiers([each.shape[1] for each in intermediate(maps)], client.classes)

    return client.module("auxiliary", build, init="own", keep=True)
