"""FedKT: students of each party's teachers vote on public samples, once, and a final net learns the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from fedkd import (
    Classifier,
    Client,
    Knowledge,
    Needs,
    Node,
    NonNegative,
    Server,
    Split,
    Strategy,
    TensorSpec,
    classifier,
)
from fedkd.experiment.algorithm.conditions import Beyond, Idle, Unless
from fedkd.losses import soft_cross_entropy
from fedkd.methods.architecture_groups import clients_nets, weights_schema
from fedkd.methods.frozen_nets import tensors_under
from fedkd.methods.public_distillation import distil, predict_public, train_on_labels
from fedkd.nets import Net
from fedkd.targets import confident_vote, consistent, vote

Count = Annotated[int, Field(ge=1)]
#: A field that takes a number of epochs; 0 = train.epochs.
Epochs = Annotated[int, Field(ge=0)]


@final
@dataclass(frozen=True)
class FedKT(Strategy):
    """Each party distils teachers of parts of its samples into students; where these agree they label for a final net.

    Paper: Li, He and Song, "Practical One-Shot Federated Learning for Cross-Silo Setting", IJCAI 2021, arXiv
    2010.01017.
    What travels: s students up, s |θ_k| elements a client and round, s = ``partitions``; nothing down. It is a
    method of one round; in further rounds all goes on, the teachers too, from where it was, and each sends s
    students again.
    A party cuts its labelled samples s times, each time anew, into t parts (as many as have two samples), and
    trains a teacher on each. The t teachers of a cut vote on P public samples, and a student learns the labels. At
    the server a party counts s for a class if all its students name it, else 0; the class of most votes labels a
    sample for the final net (``server_net``). Nets may differ.
    Privacy: with gamma > 0 votes get Laplace noise of scale 1 / gamma, and the labels made of them are private, by
    plain composition over the P samples of a round, whatever the data are:
        noise_at = "party"   epsilon = 2 s gamma P for a change of one sample, towards all who see a party's students
        noise_at = "server"  epsilon = 3 s gamma P for all that a party holds, towards who sees the final net only
    The 3 is 2 where ``threshold`` is 0, as the test for enough votes is noisy too. "server" promises nothing
    against the server, which has the students. Losses and sample counts, sent beside them, are not covered. The
    sums are large for any gamma that lets a net learn; the paper's, much smaller, depend on the data (moments
    accountant), promise nothing before the votes are known, and are not computed here. The noise is floating point
    of a seeded generator: for experiments. [privacy] does not cover nets that are sent, and refuses them.
    Deviations from the official code: there, without noise, all votes count, as the line for agreement is commented
    out, and with noise only a class of exactly s votes, of whichever parties, does. Samples that fewer than
    ``threshold`` votes speak for, those of no consistent party, are left out; there class 0 or noise labels them.
    Without noise, of classes with equal votes the likelier one wins; there the first. Epochs are 20, in its script
    100; the optimiser is that of [train], there Adam, lr 0.001.
    """

    partitions: Count = 2  # s, cuts of a party's samples, and its students
    teachers: Count = 5  # t, parts of a cut
    public_samples: Annotated[int, Field(ge=0)] = 0  # P, the same ones in all rounds; 0 = all
    threshold: NonNegative = 1.0  # votes that a sample needs at the server; 0 = all are taught
    gamma: NonNegative = 0.0  # 1 / the scale of the votes' noise; 0 = none
    noise_at: Literal["party", "server"] = "server"  # whose votes are noisy: FedKT-L2 and FedKT-L1 of the paper
    teacher_epochs: Epochs = 20  # on its part, each round; 0 = train.epochs
    student_epochs: Epochs = 20  # of students on the public samples; 0 = train.epochs
    final_epochs: Epochs = 20  # of the final net there; 0 = train.epochs

    paper: ClassVar[str] = "Li et al., IJCAI 2021, arXiv 2010.01017"
    sends: ClassVar[str] = "weights and buffers of some students up, nothing down"
    needs: ClassVar[Needs] = Needs(labels=True, public=True, server_net=True)
    idle: ClassVar[Idle] = {"public_samples": (Beyond("public_samples"),), "noise_at": (Unless(gamma=0),)}

    def _noise(self, where: str) -> float:
        return 1 / self.gamma if self.gamma and self.noise_at == where else 0.0

    def _public(self, node: Node) -> Split:
        return node.public_subset(self.public_samples, round=0)

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """Weights and buffers of each student."""
        one = weights_schema(server, client)
        return {f"{student}/{name}": spec for student in range(self.partitions) for name, spec in one.items()}

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Teachers on parts of one's own samples, then a student of each cut's votes."""
        data, public = client.train.labelled(), self._public(client)
        losses, tensors = dict[str, float](), dict[str, Tensor]()
        for cut in range(self.partitions):
            said = []
            parts = cut_into(len(data), self.teachers, client.lasting_rng(f"cut {cut}"))
            for place, part in enumerate(parts):
                net = client.net(f"teacher {place} of cut {cut}", init="own", keep=client.experiment.rounds > 1)
                found = train_on_labels(net, client.split(data.samples.subset(part)), epochs=self.teacher_epochs)
                losses["cross_entropy"] = losses.get("cross_entropy", 0.0) + found["cross_entropy"] * len(part)
                said.append(predict_public(net, public))
            noise, rng = self._noise("party"), client.rng(f"noise {cut}")
            labels = vote(torch.stack(said), noise=noise, rng=rng, ties="likeliest").probabilities()  # (P, C)
            student = own_student(client, cut)
            found = distil(student, public, labels, soft_cross_entropy, epochs=self.student_epochs)
            losses["distillation"] = losses.get("distillation", 0.0) + found["distillation"] / self.partitions
            tensors |= {f"{cut}/{name}": tensor for name, tensor in student.state_dict().items()}
        losses["cross_entropy"] /= self.partitions * len(data)
        losses["loss"] = losses["cross_entropy"] + losses["distillation"]
        return Knowledge.of("weights", tensors, weight=len(data), metrics=losses)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The votes of all parties whose students have come, the newest of each; the final net learns them."""
        for client, upload in uploads.items():
            server.memory.store(f"party/{client}/", upload.tensors)
        parties = {client: held for client in server.clients if (held := server.memory.under(f"party/{client}/"))}
        if not uploads:
            return Knowledge()
        public = self._public(server)
        answers = [logits for client, held in parties.items() for logits in self._answers(server, client, held, public)]
        if not answers:
            return Knowledge()
        said, noise = torch.stack(answers), self._noise("server")  # (s K, P, C)
        labels, confident = confident_vote(
            said,
            threshold=self.threshold,
            threshold_noise=noise if self.threshold else 0.0,
            noise=noise,
            distribution="laplace",
            rng=server.rng("noise"),
            counts=consistent(said, self.partitions),
            ties="likeliest",
        )
        places = confident.nonzero().squeeze(1)  # (P',)
        server.report({"answered": len(places) / len(public)})
        if len(places) > 1:  # one sample has no batch statistics
            kept, targets = server.split(public.samples.subset(places)), labels.probabilities()[places]
            losses = distil(final_net(server), kept, targets, soft_cross_entropy, epochs=self.final_epochs)
            server.report({"distillation": losses["distillation"]})
        return Knowledge()

    def _answers(self, server: Server, client: int, held: Mapping[str, Tensor], public: Split) -> list[Tensor]:
        """Logits (P, C) of each student of a party; none where those of one are no numbers."""
        answers = []
        for cut in range(self.partitions):
            student = tensors_under(Knowledge.of("weights", held), f"{cut}/")
            answers += [predict_public(net, public) for _, net in clients_nets(server, {client: student})]
        return answers if all(bool(logits.isfinite().all()) for logits in answers) else []

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The final net; at a party the student of its first cut."""
        if isinstance(node, Server):
            return {"final": classifier(final_net(node))}
        return {"student": classifier(own_student(node, 0))}


def own_student(client: Node, cut: int) -> Net:
    """The student of one cut of a party's samples, kept."""
    return client.net(f"student {cut}", init="own", keep=True)


def final_net(server: Server) -> Net:
    """The net that the server trains and keeps."""
    return server.net("final", keep=True)


def cut_into(samples: int, parts: int, rng: torch.Generator) -> list[Tensor]:
    """Shuffled positions 0 .. samples - 1 in so many parts of nearly equal size, fewer where one would have no two.

    >>> [sorted(part.tolist()) for part in cut_into(3, 5, torch.Generator())]
    [[0, 1, 2]]
    >>> [len(part) for part in cut_into(7, 3, torch.Generator())]
    [3, 2, 2]
    """
    return list(torch.randperm(samples, generator=rng).tensor_split(max(1, min(parts, samples // 2))))
