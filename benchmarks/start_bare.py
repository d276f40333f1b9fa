"""What a careful person writes without fedkd: round 1 of FedAvg on digits, with torch and scikit-learn alone.

As ``simulations/digits_fedavg.toml`` has it: data, net, optimiser, clients, epochs and batches are the same, and so are the
accuracies that are measured before and after round 1, of the global net, on the global test set and on each client's own. Only
who holds which image differs.
"""

from __future__ import annotations

import json

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

TRAINED_ON = [234, 245, 254, 261, 157]  # images, a client
TESTED_ON = [59, 61, 63, 65, 39]
EPOCHS, BATCH, LR, MOMENTUM, DECAY = 2, 32, 0.1, 0.9, 1e-5

torch.set_num_threads(1)
torch.manual_seed(0)
pixels, numbers = load_digits(return_X_y=True)
images, labels = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) / 16, torch.from_numpy(numbers)
order = torch.randperm(len(labels))
test, *held = order.split([359, *(count for pair in zip(TRAINED_ON, TESTED_ON, strict=True) for count in pair)])
mean, std = images[order[359:]].mean(), images[order[359:]].std()
images = ((images - mean) / std).contiguous(memory_format=torch.channels_last)
clients = list(zip(held[::2], held[1::2], strict=True))


def make_net() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding="same"), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Conv2d(8, 16, 3, padding="same"), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)),
    ).to(memory_format=torch.channels_last)


@torch.inference_mode()
def accuracy(net: nn.Module, rows: torch.Tensor) -> float:
    return float((net.eval()(images[rows]).argmax(1) == labels[rows]).float().mean())


def train(net: nn.Module, rows: torch.Tensor) -> int:
    optimizer = torch.optim.SGD(net.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY, fused=True)
    steps = 0
    net.train()
    for _ in range(EPOCHS):
        for batch in rows[torch.randperm(len(rows))].split(BATCH):
            loss = cross_entropy(net(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
    return steps


def evaluate(round: int, net: nn.Module, steps: int) -> None:
    own = sum(accuracy(net, rows) * len(rows) for _, rows in clients) / sum(TESTED_ON)
    print(json.dumps({"round": round, "accuracy": accuracy(net, test), "client_accuracy": own, "steps": steps}), flush=True)


net, local = make_net(), make_net()
evaluate(0, net, 0)
total, steps = {name: torch.zeros_like(tensor) for name, tensor in net.state_dict().items()}, 0
for rows, _ in clients:
    local.load_state_dict(net.state_dict())
    steps += train(local, rows)
    for name, tensor in local.state_dict().items():
        total[name] += tensor * (len(rows) / sum(TRAINED_ON))
net.load_state_dict(total)
evaluate(1, net, steps)
