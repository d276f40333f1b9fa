"""pfl's CIFAR-10 benchmark in pfl 0.6: FedAvg as its benchmark's own files set it up, on images given.

python with_pfl_cifar10.py FILE ROUNDS SEED     # a line of JSON each time that it evaluates
"""

from __future__ import annotations

import sys
from dataclasses import replace
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
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from pfl_cifar10_task import BATCH, COHORT, LR, Task, make_net
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


class Net(nn.Module):
    """pfl asks a net for its loss, and sets it to train or to evaluate there."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = make_net()

    def loss(self, images: Tensor, labels: Tensor, eval: bool = False) -> Tensor:
        """Of a batch."""
        self.train(not eval)
        return cross_entropy(self.layers(images), labels)

    def metrics(self, images: Tensor, labels: Tensor, eval: bool = True) -> dict[str, Any]:
        """None: the clients are not evaluated."""
        return {}


class Averaging(FederatedAveraging):
    """pfl's, without the evaluation of the cohort before and after training, which the other codes do not make either."""

    def get_next_central_contexts(self, *arguments: Any, **more: Any) -> Any:
        """Of one round."""
        contexts, model, metrics = super().get_next_central_contexts(*arguments, **more)
        return contexts and tuple(replace(context, do_evaluation=False) for context in contexts), model, metrics


class Evaluation(TrainingProcessCallback):
    """Tests the net after the mean of a round."""

    def __init__(self, task: Task, net: nn.Module) -> None:
        self.task, self.net = task, net

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: Any, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """Go on."""
        self.task.evaluate(self.net, central_iteration + 1)
        return False, Metrics()


def train(file: str, rounds: int, seed: int) -> None:
    """FedAvg as pfl's benchmark is set up."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    np.random.seed(seed)
    task = Task(file)
    net = Net()
    model = PyTorchModel(
        net, local_optimizer_create=torch.optim.SGD, central_optimizer=torch.optim.SGD(net.parameters(), lr=1.0)
    )
    data = FederatedDataset(
        lambda user: Dataset(task.users[user], user_id=str(user)), get_user_sampler("random", list(range(len(task.users))))
    )
    Averaging().run(
        NNAlgorithmParams(
            central_num_iterations=rounds, evaluation_frequency=10**6, train_cohort_size=COHORT, val_cohort_size=None
        ),
        SimulatedBackend(training_data=data, val_data=data, postprocessors=[WeightByUser()]),
        model,
        NNTrainHyperParams(local_num_epochs=1, local_learning_rate=LR, local_batch_size=BATCH),
        callbacks=[Evaluation(task, net.layers)],
        send_metrics_to_platform=False,
    )


if __name__ == "__main__":
    train(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
