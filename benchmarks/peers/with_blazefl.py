"""FedAvg in BlazeFL: its serial trainer, with tensors in memory in place of a DataLoader, and a new fused SGD a client."""

from __future__ import annotations

from typing import Any

import torch
from blazefl.contrib.fedavg import FedAvgBaseClientTrainer, FedAvgBaseServerHandler, FedAvgUplinkPackage
from blazefl.core import deserialize_model
from task import BATCH, LR, Rounds, flattened, make_net, make_optimizer, read_task, shuffled_batches, train_step
from torch import Tensor, nn

task = read_task()


class Nets:
    """BlazeFL asks for nets by name."""

    def select_model(self, model_name: str) -> nn.Module:
        """Fresh weights, for the server and the trainer."""
        return make_net()


class Holdings:
    """Each client's images, normalised once."""

    def __init__(self) -> None:
        self.holdings = task.holdings()

    def get_dataloader(self, type_: Any, cid: int, batch_size: int, generator: Any) -> list[tuple[Tensor, Tensor]]:
        """Of one client."""
        return shuffled_batches(*self.holdings[cid])


class Trainer(FedAvgBaseClientTrainer):
    """BlazeFL's, but for the optimiser, which there has no momentum and is shared by all clients, and channels last."""

    def train(self, model_parameters: Tensor, train_loader: Any, cid: int) -> FedAvgUplinkPackage:
        """One client's turn."""
        deserialize_model(self.model, model_parameters)
        optimizer, size = make_optimizer(self.model), 0
        for images, labels in train_loader:
            train_step(self.model, optimizer, images, labels)
            size += len(labels)
        return FedAvgUplinkPackage(cid, flattened(self.model), size)


holdings = Holdings()
common = {"model_selector": Nets(), "model_name": "cnn", "dataset": holdings, "num_clients": task.clients}
common |= {"device": "cpu", "batch_size": BATCH, "seed": 0}
handler = FedAvgBaseServerHandler(global_round=task.rounds, sample_ratio=1.0, **common)
trainer = Trainer(epochs=1, lr=LR, **common)
trainer.model.to(memory_format=torch.channels_last)
rounds = Rounds()
while not handler.if_stop():
    trainer.local_process(handler.downlink_package(), handler.sample_clients())
    for package in trainer.uplink_package():
        handler.load(package)
    rounds.done()
task.finish(handler.model)
