"""pfl's CIFAR-10 benchmark as a loop without any framework: who is drawn, the order of samples and dropout by torch's stream.

python loop_pfl_cifar10.py FILE ROUNDS SEED       # a line of JSON each time that it evaluates
"""

from __future__ import annotations

import sys

import torch
from pfl_cifar10_task import BATCH, COHORT, LR, Task, make_net
from torch.nn.functional import cross_entropy


def train(file: str, rounds: int, seed: int) -> None:
    """FedAvg: the mean of the weights of a cohort, each after one epoch from the last mean."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    task, net = Task(file), make_net()
    parameters = list(net.parameters())
    weights = [parameter.detach().clone() for parameter in parameters]
    for round_number in range(1, rounds + 1):
        total = [torch.zeros_like(weight) for weight in weights]
        for user in torch.randperm(len(task.users))[:COHORT].tolist():
            images, labels = task.users[user]
            with torch.no_grad():
                torch._foreach_copy_(parameters, weights)
            net.train()
            optimizer = torch.optim.SGD(parameters, lr=LR)
            for batch in torch.randperm(len(labels)).split(BATCH):
                optimizer.zero_grad()
                cross_entropy(net(images[batch]), labels[batch]).backward()
                optimizer.step()
            with torch.no_grad():
                torch._foreach_add_(total, parameters, alpha=1 / COHORT)
        weights = total
        with torch.no_grad():
            torch._foreach_copy_(parameters, weights)
        task.evaluate(net, round_number)


if __name__ == "__main__":
    train(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
