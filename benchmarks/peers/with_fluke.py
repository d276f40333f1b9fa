"""FedAvg in fluke (fluke-fl): everything in memory, its own loader over tensors, no evaluation, clients that keep no net."""

from __future__ import annotations

import torch
from fluke import FlukeENV
from fluke.algorithms.fedavg import FedAVG
from fluke.client import Client
from fluke.config import OptimizerConfigurator
from fluke.data import FastDataLoader
from fluke.server import Server
from fluke.utils import FederationObserver
from task import BATCH, DECAY, LR, MOMENTUM, Rounds, make_net, read_task

task = read_task()
settings = FlukeENV()
settings.set_seed(0)
settings.set_device("cpu")
settings.set_inmemory(True)
settings.set_eval_cfg(server=False, locals=False, pre_fit=False, post_fit=False)
sgd = {"name": "SGD", "lr": LR, "momentum": MOMENTUM, "weight_decay": DECAY, "fused": True}
loss = torch.nn.CrossEntropyLoss()
clients = [
    Client(
        index=number,
        train_set=FastDataLoader(images, labels, num_labels=10, batch_size=BATCH, shuffle=True),
        test_set=None,
        optimizer_cfg=OptimizerConfigurator(sgd, {"name": "StepLR", "step_size": 1, "gamma": 1}),
        loss_fn=loss,
        local_epochs=1,
        persistency=False,  # a net and an optimiser of its own for each of 500 clients else, and its momentum kept
    )
    for number, (images, labels) in enumerate(task.holdings())
]
server = Server(make_net().to(memory_format=torch.channels_last), None, clients)
federation = FedAVG(len(clients), None, None, clients=clients, server=server)
rounds = Rounds()


class EndOfRound(FederationObserver):
    """Tells the time."""

    def end_round(self, round: int) -> None:
        """After the sum."""
        rounds.done()


federation.set_callbacks([EndOfRound()])
federation.run(task.rounds, eligible_perc=1.0)
task.finish(server.model)
