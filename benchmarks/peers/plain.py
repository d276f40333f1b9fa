"""FedAvg as most people write it without any framework: torch's default SGD and order of axes, state dicts summed."""

from __future__ import annotations

import torch
from task import BATCH, DECAY, IMAGES, LR, MOMENTUM, Rounds, make_net, read_task, train_step

task = read_task()
net = make_net()
weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
rounds = Rounds()
for _ in range(task.rounds):
    total = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    for client in range(task.clients):
        net.load_state_dict(weights)
        optimizer = torch.optim.SGD(net.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
        for positions in torch.randperm(IMAGES).split(BATCH):
            rows = client * IMAGES + positions
            images = (task.images[rows].float() / 255 - task.mean) / task.std
            train_step(net, optimizer, images, task.labels[rows])
        for name, tensor in net.state_dict().items():
            total[name] += tensor / task.clients
    weights = total
    rounds.done()
net.load_state_dict(weights)
task.finish(net)
