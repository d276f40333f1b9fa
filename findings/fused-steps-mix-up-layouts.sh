#!/usr/bin/env bash
# torch 2.13.0 (CPU).
# A fused optimiser goes through a weight, its gradient and its momentum in the order in which they lie in memory, and does not look
# whether that is one order. So a checkpoint of a contiguous net, loaded into a channels-last one, gives each weight of a
# convolution another weight's momentum: `load_state_dict` puts values into the net as the net lies and keeps the optimiser's as
# they came. Nothing is raised, and the net goes on learning, only worse. The same happens with a gradient that is set by hand.
# With `fused=False` the step is right. That of a CPU has no check; what a GPU does was not looked at.
# What helps: lay the optimiser's tensors out as the weights, `torch.empty_like(weight).copy_(momentum)`, after loading.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env && env/bin/pip install --quiet torch==2.13.0
cat > step.py <<'PY'
import copy

import torch
from torch import nn

torch.manual_seed(0)
images = torch.randn(4, 3, 8, 8)


def train(net, optimizer):
    for _ in range(3):
        optimizer.zero_grad()
        net(images).square().mean().backward()
        optimizer.step()


def go_on(checkpoint, optimizer_of, memory_format):
    net = nn.Conv2d(3, 4, 3)
    net.load_state_dict(checkpoint[0])
    net.to(memory_format=memory_format)
    optimizer = optimizer_of(net.parameters())
    optimizer.load_state_dict(copy.deepcopy(checkpoint[1]))
    train(net, optimizer)
    return net.weight.detach()


for kind, numbers in ((torch.optim.SGD, {"momentum": 0.9}), (torch.optim.Adam, {})):
    for fused in (False, True):
        make = lambda parameters: kind(parameters, lr=0.1, fused=fused, **numbers)
        net = nn.Conv2d(3, 4, 3)
        optimizer = make(net.parameters())
        train(net, optimizer)
        checkpoint = net.state_dict(), optimizer.state_dict()
        one, other = (go_on(checkpoint, make, form) for form in (torch.contiguous_format, torch.channels_last))
        print(f"{kind.__name__}, fused={fused}: resumed channels-last as contiguous:", torch.allclose(one, other, atol=1e-4))

weight = nn.Parameter(torch.zeros(1, 2, 1, 2).to(memory_format=torch.channels_last))
weight.grad = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 2, 1, 2)
torch.optim.SGD([weight], lr=1.0, fused=True).step()
print("0 less 1, 2, 3, 4 is", weight.flatten().tolist())
PY
seen=$(env/bin/python -W ignore step.py)
echo "$seen"
test "$seen" = "SGD, fused=False: resumed channels-last as contiguous: True
SGD, fused=True: resumed channels-last as contiguous: False
Adam, fused=False: resumed channels-last as contiguous: True
Adam, fused=True: resumed channels-last as contiguous: False
0 less 1, 2, 3, 4 is [-1.0, -3.0, -2.0, -4.0]"
