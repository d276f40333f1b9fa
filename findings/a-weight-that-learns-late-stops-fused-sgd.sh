#!/usr/bin/env bash
# torch 2.13.0 (CPU).
# SGD with momentum and `fused=True` takes it for granted that all weights of a group got their first gradient in the same step. A
# weight that gets one later, such as that of a branch or a decoder that is trained from the second epoch on, ends the training in
# that step with "expected Tensor ..., but got NoneType", which names neither the weight nor the momentum. `fused=False` and Adam
# start its state when it comes, fused or not.
# What helps: a momentum of zeros in the optimiser's state for such weights before the step, or a group of their own.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env && env/bin/pip install --quiet torch==2.13.0
cat > step.py <<'PY'
import torch
from torch import nn


def train(kind, **settings):
    trunk, branch = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = kind([trunk, branch], lr=0.1, **settings)
    for epoch in range(2):
        optimizer.zero_grad()
        (trunk.sum() + (branch.sum() if epoch else 0)).backward()
        optimizer.step()
    return [round(number, 4) for number in branch.tolist()]


for fused in (False, True):
    print(f"Adam, fused={fused}:", train(torch.optim.Adam, fused=fused))
    try:
        print(f"SGD, fused={fused}:", train(torch.optim.SGD, momentum=0.9, fused=fused))
    except TypeError as error:
        print(f"SGD, fused={fused}: TypeError,", "NoneType" in str(error))
print("SGD, fused, without momentum:", train(torch.optim.SGD, fused=True))
PY
seen=$(env/bin/python -W ignore step.py)
echo "$seen"
test "$seen" = "Adam, fused=False: [0.9, 0.9]
SGD, fused=False: [0.9, 0.9]
Adam, fused=True: [0.9, 0.9]
SGD, fused=True: TypeError, True
SGD, fused, without momentum: [0.9, 0.9]"
