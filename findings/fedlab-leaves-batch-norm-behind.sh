#!/usr/bin/env bash
# FedLab 1.3.0, with torch 2.13.0.
# What its clients send is their net's parameters; the running statistics of BatchNorm are no parameters. The server's net, and every
# net that takes the mean, so normalises by the mean 0 and variance 1 that it was made with, without a word: two clients that are always
# right have a mean that guesses. It shows only where nets are evaluated, as training looks at the batch instead.
# What helps: GroupNorm; or to send `state_dict()` by a serialisation of one's own.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env && env/bin/pip install --quiet torch==2.13.0 numpy pandas && env/bin/pip install --quiet --no-deps fedlab==1.3.0
cat > average.py <<'PY'
import torch
from fedlab.utils.aggregator import Aggregators
from fedlab.utils.serialization import SerializationTool
from torch import nn


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 2))


def right(net, inputs, labels):
    return round(float((net.eval()(inputs).argmax(1) == labels).float().mean()), 2)


rng = torch.Generator().manual_seed(0)
labels = torch.arange(400) % 2
inputs = (100 + labels + 0.1 * torch.randn(400, generator=rng))[:, None]
uploads = []
for client in range(2):
    net = make().train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs), labels).backward()
        optimizer.step()
    print(f"client {client}, of its own samples: {right(net, inputs, labels)}")
    uploads.append(SerializationTool.serialize_model(net))
server = make()
SerializationTool.deserialize_model(server, Aggregators.fedavg_aggregate(uploads))
print(f"the mean of the two clients, of the same samples: {right(server, inputs, labels)}")
print(f"its running mean: {server[0].running_mean.item()}")
PY
seen=$(env/bin/python average.py)
echo "$seen"
test "$seen" = "client 0, of its own samples: 1.0
client 1, of its own samples: 1.0
the mean of the two clients, of the same samples: 0.5
its running mean: 0.0"
