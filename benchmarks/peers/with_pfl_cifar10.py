"""pfl's CIFAR-10 benchmark in pfl 0.6: who holds what, or FedAvg on it. What its benchmark's own files do, on images given.

    python with_pfl_cifar10.py part FILE ALPHA SEED OUT     # OUT.npy: whose each image is; ALPHA 0: of all classes alike
    python with_pfl_cifar10.py train FILE ROUNDS SEED       # a line of JSON each time that it evaluates

FILE is an .npz of images (N, 32, 32, 3) as bytes, labels, and, to train, ``train_groups``. The benchmark's own files read
CIFAR-10 as rows of pixels, though it is stored channel after channel, so its images are scrambled; here they are not.
"""

from __future__ import annotations

import json
import sys
import time
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
from pfl.data.partition import partition_by_dirichlet_class_distribution
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from pfl_cifar10_net import make_net
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

SAMPLES, COHORT, BATCH, LR, EVERY = 50, 50, 10, 0.1, 10


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
    """pfl's, without the evaluation of the cohort before and after training, which fedkd has not either."""

    def get_next_central_contexts(self, *arguments: Any, **more: Any) -> Any:
        """Of one round."""
        contexts, model, metrics = super().get_next_central_contexts(*arguments, **more)
        return contexts and tuple(replace(context, do_evaluation=False) for context in contexts), model, metrics


class Evaluation(TrainingProcessCallback):
    """Accuracy on all test images, every so many rounds."""

    def __init__(self, net: Net, images: Tensor, labels: Tensor) -> None:
        self.net, self.images, self.labels, self.began = net, images, labels, (time.perf_counter(), time.process_time())

    @torch.inference_mode()
    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: Any, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """After the mean of a round."""
        if (central_iteration + 1) % EVERY == 0:
            self.net.eval()
            right = [self.net.layers(part).argmax(1) for part in self.images.split(1000)]
            line = {"round": central_iteration + 1, "accuracy": float((torch.cat(right) == self.labels).float().mean())}
            clocks = {"seconds": time.perf_counter() - self.began[0], "cpu_seconds": time.process_time() - self.began[1]}
            print(json.dumps(line | clocks), flush=True)
        return False, Metrics()


def part(file: str, alpha: float, seed: int, out: str) -> None:
    """Users of 50 images each, as pfl's benchmark makes them."""
    np.random.seed(seed)
    with np.load(file) as arrays:
        labels = arrays["train_labels"]
    order = np.random.permutation(len(labels))
    if alpha:
        users = [order[rows] for rows in partition_by_dirichlet_class_distribution(labels[order], alpha, lambda: SAMPLES)]
    else:
        users = np.split(order, len(order) // SAMPLES)
    groups = np.full(len(labels), -1)
    for user, rows in enumerate(users):
        groups[rows] = user
    np.save(out, groups)


def train(file: str, rounds: int, seed: int) -> None:
    """FedAvg as pfl's benchmark is set up."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    np.random.seed(seed)
    with np.load(file) as arrays:
        held = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    held["train_images"], held["test_images"] = (
        held[f"{split}_images"].permute(0, 3, 1, 2).float().div_(255).contiguous() for split in ("train", "test")
    )
    mean, std = (getattr(held["train_images"], what)(dim=(0, 2, 3), keepdim=True) for what in ("mean", "std"))
    for split in ("train", "test"):
        held[f"{split}_images"].sub_(mean).div_(std)
    order = held["train_groups"].argsort(stable=True)
    sizes = held["train_groups"].bincount().tolist()
    users = list(zip(held["train_images"][order].split(sizes), held["train_labels"][order].split(sizes), strict=True))
    net = Net()
    model = PyTorchModel(
        net, local_optimizer_create=torch.optim.SGD, central_optimizer=torch.optim.SGD(net.parameters(), lr=1.0)
    )
    data = FederatedDataset(
        lambda user: Dataset(users[user], user_id=str(user)), get_user_sampler("random", list(range(len(users))))
    )
    Averaging().run(
        NNAlgorithmParams(
            central_num_iterations=rounds, evaluation_frequency=10**6, train_cohort_size=COHORT, val_cohort_size=None
        ),
        SimulatedBackend(training_data=data, val_data=data, postprocessors=[WeightByUser()]),
        model,
        NNTrainHyperParams(local_num_epochs=1, local_learning_rate=LR, local_batch_size=BATCH),
        callbacks=[Evaluation(net, held["test_images"], held["test_labels"])],
        send_metrics_to_platform=False,
    )


if __name__ == "__main__":
    what, file, first, second, *rest = sys.argv[1:]
    if what == "part":
        part(file, float(first), int(second), *rest)
    else:
        train(file, int(first), int(second))
