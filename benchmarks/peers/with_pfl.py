"""FedAvg in pfl (pfl-research): tensors in memory, fused SGD, no evaluation; in one process, or several by ``torchrun``."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByUser
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import MinimizeReuseUserSampler
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.internal.ops.selector import get_default_framework_module
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from task import BATCH, DECAY, LR, MOMENTUM, Rounds, make_net, read_task
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

task = read_task()
np.random.seed(0)  # all processes draw the same clients


class Net(nn.Module):
    """pfl asks a net for its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = make_net().to(memory_format=torch.channels_last)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Of a batch."""
        return cross_entropy(self.layers(images), labels)

    def metrics(self, images: Tensor, labels: Tensor) -> dict[str, Any]:
        """None: nothing is evaluated."""
        return {}


class Averaging(FederatedAveraging):
    """pfl's, without its evaluation of every client in the first round, before and after training."""

    def get_next_central_contexts(self, *arguments: Any, **more: Any) -> Any:
        """Of one round."""
        contexts, model, metrics = super().get_next_central_contexts(*arguments, **more)
        return contexts and tuple(replace(context, do_evaluation=False) for context in contexts), model, metrics


class EndOfRound(TrainingProcessCallback):
    """Tells the time, in the first process."""

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: Any, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """After the sum."""
        if first:
            rounds.done()
        return False, Metrics()


def shuffled(user: int) -> Dataset:
    """A client's images in a new order: pfl's batches are in the order of its data."""
    images, labels = holdings[user]
    order = torch.randperm(len(labels))
    return Dataset((images[order], labels[order]), user_id=str(user))


holdings = task.holdings()
net = Net()
model = PyTorchModel(
    net,
    local_optimizer_create=partial(torch.optim.SGD, momentum=MOMENTUM, weight_decay=DECAY, fused=True),
    central_optimizer=torch.optim.SGD(net.parameters(), lr=1.0),
)
data = FederatedDataset(shuffled, MinimizeReuseUserSampler(range(task.clients)))
backend = SimulatedBackend(training_data=data, val_data=data, postprocessors=[WeightByUser()])
first = get_default_framework_module().distributed.global_rank == 0
rounds = Rounds()
Averaging().run(
    NNAlgorithmParams(
        central_num_iterations=task.rounds, evaluation_frequency=10**6, train_cohort_size=task.clients, val_cohort_size=None
    ),
    backend,
    model,
    NNTrainHyperParams(local_num_epochs=1, local_learning_rate=LR, local_batch_size=BATCH),
    callbacks=[EndOfRound()],
    send_metrics_to_platform=False,
)
if first:
    task.finish(net.layers)
