"""FedAvg in FedLab: its standalone pipeline, with tensors in memory in place of a DataLoader, and a new fused SGD a client."""

from __future__ import annotations

from typing import Any

import torch
from fedlab.contrib.algorithm.basic_client import SGDSerialClientTrainer
from fedlab.contrib.algorithm.basic_server import SyncServerHandler
from fedlab.contrib.dataset.basic_dataset import FedDataset
from fedlab.core.standalone import StandalonePipeline
from task import BATCH, LR, Rounds, flattened, make_net, make_optimizer, read_task, shuffled_batches, train_step
from torch import Tensor

task = read_task()


class Holdings(FedDataset):
    """Each client's images, normalised once."""

    def __init__(self) -> None:
        self.holdings = task.holdings()

    def get_dataloader(self, id: int, batch_size: int) -> list[tuple[Tensor, Tensor]]:
        """Of one client."""
        return shuffled_batches(*self.holdings[id])


class Trainer(SGDSerialClientTrainer):
    """FedLab's, but for the optimiser, which there has no momentum and is shared by all clients, and channels last."""

    def train(self, model_parameters: Tensor, train_loader: Any) -> list[Tensor]:
        """One client's turn."""
        self.set_model(model_parameters)
        optimizer = make_optimizer(self._model)
        for images, labels in train_loader:
            train_step(self._model, optimizer, images, labels)
        return [flattened(self._model)]


class Pipeline(StandalonePipeline):
    """FedLab's, without evaluation."""

    def evaluate(self) -> None:
        """After the sum."""
        rounds.done()


net = make_net()
trainer = Trainer(net, task.clients)
trainer.model.to(memory_format=torch.channels_last)
trainer.setup_dataset(Holdings())
trainer.setup_optim(epochs=1, batch_size=BATCH, lr=LR)
handler = SyncServerHandler(net, task.rounds, sample_ratio=1.0)
rounds = Rounds()
Pipeline(handler, trainer).main()
task.finish(handler.model)
