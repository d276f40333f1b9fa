"""ProtoCL: MoCo whose views are also contrasted with the prototypes of the client's clusters."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fedkd.base.errors import InputError, TrainingError
from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.fields import Listed, NonNegative, Positive, Share
from fedkd.experiment.algorithm.server import Server
from fedkd.experiment.algorithm.settings import Settings
from fedkd.experiment.algorithm.train import predict
from fedkd.knowledge.table import Table
from fedkd.losses import proto_nce_loss, prototype_concentrations
from fedkd.methods.contrastive.base import Base, Views, smallest_client
from fedkd.methods.contrastive.moco import MoCo, MoCoState
from fedkd.nets import Net


@dataclass(frozen=True, eq=False)
class Clusters:
    """One clustering of N samples by their embeddings."""

    prototypes: Tensor  # (C, D) unit rows
    concentrations: Tensor  # (C,)
    labels: Tensor  # (N,) int64, the cluster of each sample; on the CPU

    def on(self, device: torch.device) -> Clusters:
        """What a loss compares with, there."""
        return Clusters(self.prototypes.to(device), self.concentrations.to(device), self.labels)


def cluster(embeddings: Tensor, count: int, *, temperature: float, alpha: float, seed: int) -> Clusters:
    """k-means of unit rows (N, D), N >= count, on the CPU: from one k-means++ start, at most 20 iterations.

    The same bits on any number of threads.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    kmeans = KMeans(count, n_init=1, max_iter=20, random_state=seed)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters: some stay empty
        kmeans.fit(embeddings.numpy())
    centroids, labels = torch.from_numpy(kmeans.cluster_centers_), torch.from_numpy(kmeans.labels_).long()
    phi = prototype_concentrations(embeddings, centroids, labels, temperature=temperature, alpha=alpha)
    return Clusters(F.normalize(centroids, dim=1), phi, labels)


@dataclass(eq=False)
class ProtoCLState:
    """What MoCo needs in one local training, and this epoch's clusterings."""

    client: Client
    moco: MoCoState
    rng: torch.Generator  # of the clusterings
    active: bool  # whether the prototypes count in this round
    seen: int = 0  # samples of this epoch
    clusterings: list[Clusters] = field(default_factory=list)  # M of them
    labels: Table = field(default_factory=lambda: Table(torch.empty(0), torch.empty(0)))  # (N, M) each sample's clusters


def key_embeddings(client: Client, key: Net) -> Tensor:
    """The key encoder's projections of the client's un-augmented training samples, in order: unit rows (N, D) on the CPU."""
    key.eval()
    data = client.train
    rows = predict(lambda inputs: key.head("projection", key.features(inputs)), data.samples, data.work).clone()
    key.train()
    if not bool(rows.isfinite().all()):
        raise TrainingError(f"{data.work.where}: the key encoder gives no finite numbers: lower train.lr or set train.clip")
    return F.normalize(rows, dim=1)


@final
@dataclass(frozen=True)
class ProtoCL(Base[ProtoCLState]):
    """Li et al., "Prototypical Contrastive Learning of Unsupervised Representations", ICLR 2021, arXiv 2005.04966.

    To MoCo's InfoNCE, with its queue and its key encoder, is added the contrast with prototypes, at equal weight. As each local
    epoch begins, the client's own samples are clustered by what the key encoder makes of them, several times with different
    numbers of clusters; the term is the mean over clusterings and both views. Prototypes never leave the client.
    Known to be unstable: federated it reaches 49.9 % on SVHN where SimCLR has 75.2 % (table of FedX, arXiv 2207.09158); with
    FedX on top, 69.3 %.

    The queue is short: one that outlasts an epoch holds a sample's own past as a negative. 256 is the least that also takes
    batches of 128.
    Deviations from the official code: both views are queries; all prototypes are negatives, as there are few; counts for
    hundreds of samples and not for a million; one k-means++ start and not five random ones; a warm-up of rounds, as what a
    client gets later has been trained, where there 20 epochs of 200 are; that of ``prototype_concentrations``; MoCo's own.
    """

    temperature: Positive = 0.1  # of InfoNCE, and the mean of the prototypes' own
    prototypes: Annotated[tuple[int, ...], Listed] = (8, 16, 32)  # how many, in each of the clusterings
    momentum: Share = 0.99  # of the key encoder
    alpha: NonNegative = 10.0  # the larger, the less small clusters count as widely spread
    warm_up: Annotated[int, Field(ge=0)] = 1  # first rounds without prototypes
    queue: Annotated[int, Field(ge=1)] = 256  # keys of the past; a multiple of 2 train.batch_size, no more than an epoch's

    @property
    def moco(self) -> MoCo:
        """What is descended beside the prototypes' term."""
        return MoCo(self.temperature, self.queue, self.momentum)

    def check(self, experiment: Settings) -> None:
        """Two prototypes at least: one has nothing to contrast with. Also what MoCo asks for."""
        if not self.prototypes or min(self.prototypes) < 2:
            given = list(self.prototypes)
            raise InputError(f"strategy: prototypes {given} leave nothing to tell apart: give counts of 2 or more")
        self.moco.check(experiment)

    def check_clients(self, server: Server) -> None:
        """Each has as many samples as prototypes."""
        client, samples = smallest_client(server)
        if samples < max(self.prototypes):
            raise InputError(
                f"strategy: {max(self.prototypes)} prototypes are more than the {samples} training samples of client {client}: "
                "lower prototypes, or give every client more (data.min_partition_size)"
            )

    def start(self, client: Client, net: Net) -> ProtoCLState:
        """The key encoder and the queue. Clusters are made when an epoch begins."""
        rng, active = client.rng("clusters"), client.round > self.warm_up
        return ProtoCLState(client, self.moco.start(client, net), rng, active)

    def loss(self, state: ProtoCLState, net: Net, views: Views) -> Mapping[str, Tensor]:
        """MoCo's, and the mean of the prototypes' terms; 0 while it warms up. Gradient: through the views' projections only."""
        parts = self.moco.loss(state.moco, net, views)
        return {**parts, "prototype_contrastive": self._contrast(state, views)}

    def after_step(self, state: ProtoCLState, net: Net) -> None:
        """The key encoder follows."""
        self.moco.after_step(state.moco, net)

    def finish(self, state: ProtoCLState, client: Client, net: Net) -> None:
        """The queue, for the next time."""
        self.moco.finish(state.moco, client, net)

    def _contrast(self, state: ProtoCLState, views: Views) -> Tensor:
        if not state.active:
            return torch.zeros((), device=views.projected.device)
        if state.seen == 0:
            self._cluster(state)
        state.seen = (state.seen + len(views.ids)) % state.client.samples
        labels = state.labels.rows(views.ids).repeat(2, 1).to(views.projected.device)  # (2B, M)
        terms = [
            proto_nce_loss(views.projected, each.prototypes, labels[:, m], each.concentrations)
            for m, each in enumerate(state.clusterings)
        ]
        return torch.stack(terms).mean()

    def _cluster(self, state: ProtoCLState) -> None:
        """An epoch begins: all clusterings anew."""
        rows, client = key_embeddings(state.client, state.moco.key), state.client
        seeds = torch.randint(2**31, (len(self.prototypes),), generator=state.rng).tolist()
        state.clusterings = [
            cluster(rows, count, temperature=self.temperature, alpha=self.alpha, seed=seed).on(client.device)
            for count, seed in zip(self.prototypes, seeds, strict=True)
        ]
        labels = torch.stack([each.labels for each in state.clusterings], dim=1)  # (N, M)
        state.labels = Table(client.train.samples.indices, labels)
