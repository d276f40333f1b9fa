"""Born-again networks: generations of equal nets, each from fresh weights and taught by the last of the one before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fedkd import (
    Batch,
    Client,
    Knowledge,
    Needs,
    Node,
    NonNegative,
    Peers,
    Predictor,
    Server,
    Strategy,
    classifier,
    fit,
    load,
)
from fedkd.aggregate import weighted_mean
from fedkd.experiment.algorithm.conditions import Idle, Within
from fedkd.experiment.algorithm.step import make_optimizer
from fedkd.losses import soft_cross_entropy
from fedkd.losses.precision import at_least_float32
from fedkd.methods.frozen_nets import TEACHER, frozen_net, student_tensors, tensors_under, with_teacher
from fedkd.nets import Net


@final
@dataclass(frozen=True)
class BornAgain(Strategy):
    """Generation 0 learns from labels; each later one starts anew and learns the last predictions of the one before.

    Paper: Furlanello et al., "Born-Again Neural Networks", ICML 2018, arXiv 1805.04770; formulas as usually stated.
    Variants:
        ban    cross-entropy with the teacher's probabilities at T = 1
        cwtm   cross-entropy with labels, samples weighted by the teacher's largest probability over the batch's sum
               of these
        dkpp   as ban, after each sample's probabilities but the largest were shuffled among the other classes
    to each of which ``label_weight`` times the cross-entropy with labels may be added. With one client it is the paper;
    with many, each generation is trained as in FedAvg, and the teacher is the generation's last mean.
    What travels: weights and buffers of the current generation, |θ| elements up and down; from the second generation on
    its teacher's too, as much again down, but for the round in which it begins: there the net received is the teacher.
    Fresh weights do not travel: all draw the same, others for each generation. So who missed rounds has the right nets.
    The server keeps all generations: ``generations``, from the second on, are each one's last net and the current (BANE
    is their ensemble). ``accuracy`` is the current generation's; a row in which one ends shows its last. The teacher is
    in eval mode. Learning rates of [train] run their schedule once a generation; the optimiser is new each round.
    Deviations: the paper's CWTM and DKPP are ablations without labels beside them, as here by default.
    """

    generation: Annotated[int, Field(ge=1)] = 10  # rounds of each generation
    variant: Literal["ban", "cwtm", "dkpp"] = "ban"  # what a generation learns from the last, see above
    label_weight: NonNegative = 0.0  # of the cross-entropy with labels beside the variant; 1 is the paper's BAN+L

    paper: ClassVar[str] = "Furlanello et al., ICML 2018, arXiv 1805.04770"
    sends: ClassVar[str] = "weights and buffers both ways, the last generation's down"
    needs: ClassVar[Needs] = Needs(labels=True, equal_nets=True)
    outlives_its_round: ClassVar[bool] = False  # a late net may be of another generation
    idle: ClassVar[Idle] = {"variant": (Within("generation"),), "label_weight": (Within("generation"),)}

    def _number(self, node: Node) -> int:
        return (max(1, node.round) - 1) // self.generation

    def first_broadcast(self, server: Server) -> Knowledge:
        """The shared initial weights of generation 0."""
        return Knowledge.of("weights", server.net().state_dict(), header={"generation": 0})

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs from the current generation's weights; from fresh ones where it begins."""
        number, net, data = self._number(client), client.net(), client.train.labelled()
        start, taught = student_tensors(broadcast), tensors_under(broadcast, TEACHER)
        if broadcast.header["generation"] != number:
            start, taught = client.module(f"generation {number}", client.fresh_net).state_dict(), start
        load(net, start)
        teacher = frozen_net(client, "teacher", taught) if taught else None
        rng = client.rng("permutations")

        def loss(net: Net, batch: Batch) -> dict[str, Tensor]:
            logits = net(batch.inputs)  # (B, C)
            label_loss = batch.cross_entropy(logits)
            if teacher is None:
                return {"cross_entropy": label_loss}
            with torch.no_grad():
                teaching = teacher(batch.inputs)  # (B, C)
            distillation = VARIANTS[self.variant](logits, teaching, batch.labels, rng)
            return {"distillation": distillation, "cross_entropy": self.label_weight * label_loss}

        lr = client.experiment.train.lr_at((client.round - 1) % self.generation + 1, self.generation)
        losses = fit(net, data, loss, optimizer=make_optimizer(net, client.work(), lr=lr))
        metrics = {**losses, "distillation_weight": 0.0 if teacher is None else 1.0, "generation": number}
        return Knowledge.of("weights", net.state_dict(), weight=len(data), metrics=metrics)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The mean, kept as the generation's newest; the teacher beside it unless the generation ends here."""
        mean = weighted_mean(uploads).with_header(generation=(number := self._number(server)))
        server.memory.store(f"generation {number}/", mean.tensors)
        earlier = [] if server.round % self.generation == 0 else self._kept(server)[:-1]
        taught = server.memory.under(f"generation {earlier[-1]}/") if earlier else {}
        return with_teacher(mean, taught)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Predictor]:
        """The current generation everywhere; at the server all of them, once there are two."""
        student = frozen_net(node, "student", student_tensors(broadcast))
        kept = self._kept(node) if isinstance(node, Server) else []
        nets = [frozen_net(node, name := f"generation {g}", node.memory.under(f"{name}/")) for g in kept]
        everyone = {"generations": Peers(lambda inputs: torch.stack([net(inputs) for net in nets]))}  # (K, B, C)
        return {"student": classifier(student), **(everyone if len(nets) > 1 else {})}

    def _kept(self, node: Node) -> list[int]:
        return [number for number in range(self._number(node) + 1) if node.memory.under(f"generation {number}/")]


# ---- what a generation descends: of its logits (B, C), those of the last net of the one before (B, C), labels (B,)


def confidence_shares(teacher: Tensor) -> Tensor:
    """How much each sample counts by its teacher's confidence: the largest probability over the batch's sum of these.

    Args:
        teacher: (B, C) logits.

    Returns:
        (B,) float32 or better, sums to one.

    >>> confidence_shares(torch.tensor([[0.0, 0.0], [0.0, 3.0]]).log1p())  # 1/2 and 4/5 of 13/10
    tensor([0.3846, 0.6154])
    """
    largest = at_least_float32(teacher).softmax(1).amax(1)  # (B,)
    return largest / largest.sum()


def shuffle_others(probabilities: Tensor, rng: torch.Generator) -> Tensor:
    """Each row's largest probability where it was, the others shuffled among the other classes; a shuffle a row.

    Args:
        probabilities: (B, C).
        rng: a CPU generator.
    """
    B, C = probabilities.shape
    others = ~F.one_hot(probabilities.argmax(1), C).bool()  # (B, C), C - 1 of them a row
    order = torch.rand(B, C - 1, generator=rng).argsort(1).to(probabilities.device)
    shuffled = probabilities[others].view(B, C - 1).gather(1, order)
    return probabilities.masked_scatter(others, shuffled)


def ban(logits: Tensor, teacher: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
    """Cross-entropy with the teacher's probabilities."""
    return soft_cross_entropy(logits, at_least_float32(teacher).softmax(1))


def cwtm(logits: Tensor, teacher: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
    """Confidence weighted by teacher max: cross-entropy with labels, sample by sample by the teacher's confidence."""
    return confidence_shares(teacher) @ F.cross_entropy(at_least_float32(logits), labels, reduction="none")


def dkpp(logits: Tensor, teacher: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
    """Dark knowledge with permuted predictions: as ban, but of the probabilities only the largest is in place."""
    return soft_cross_entropy(logits, shuffle_others(at_least_float32(teacher).softmax(1), rng))


VARIANTS: dict[str, Callable[[Tensor, Tensor, Tensor, torch.Generator], Tensor]] = {
    "ban": ban,
    "cwtm": cwtm,
    "dkpp": dkpp,
}
