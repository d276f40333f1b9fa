#!/usr/bin/env bash
# KD-Lib 0.0.32 with torch 2.13.0.
# `DML.train_students` and `VanillaKD.train_student` put nets into train mode once, before the first epoch, and test them after each,
# which puts them into eval mode: from the second epoch on nets train in it. BatchNorm then normalises by the statistics of the
# first epoch for good, while the weights move on, and dropout is off.
# What helps: `net.train()` in a subclass's `_evaluate_model`, after the call of the package's.
# The package asks for torch 1.8.1 and its like; the code that runs here needs none of that, but its `KD/__init__.py` imports
# parts on text that do, and is stepped over.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env && env/bin/pip install --quiet torch==2.13.0 numpy==2.4.6 matplotlib tensorboard
env/bin/pip install --quiet --no-deps KD-Lib==0.0.32
cat > train.py <<'PY'
import importlib.util
import sys
import types
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

package = types.ModuleType("KD_Lib.KD")
package.__path__ = [str(Path(importlib.util.find_spec("KD_Lib").origin).parent / "KD")]
sys.modules["KD_Lib.KD"] = package
from KD_Lib.KD.vision import DML, VanillaKD

torch.manual_seed(0)
loader = DataLoader(TensorDataset(torch.randn(64, 8), torch.arange(64) % 4), batch_size=16)


def make():
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))


def watched(net):
    """Notes the mode of each forward pass whose graph is kept: those that train."""
    modes = []
    net.register_forward_hook(lambda net, inputs, output: modes.append(net.training) if output.requires_grad else None)
    return modes


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.01)


def say(name, modes):
    first, rest = modes[: len(modes) // 3], modes[len(modes) // 3 :]
    print(f"{name}: in train mode in epoch 1 {all(first)}, in epochs 2 and 3 {any(rest)}", file=sys.stderr)


peers = [make(), make()]
modes = watched(peers[0])
DML(peers, loader, loader, [sgd(net) for net in peers]).train_students(epochs=3, plot_losses=False, save_model=False)
say("DML", modes)
teacher, student = make(), make()
modes = watched(student)
vanilla = VanillaKD(teacher, student, loader, loader, sgd(teacher), sgd(student))
vanilla.train_student(epochs=3, plot_losses=False, save_model=False)
say("VanillaKD", modes)
PY
seen=$(env/bin/python -W ignore train.py 2>&1 >/dev/null | grep mode)
echo "$seen"
test "$seen" = "DML: in train mode in epoch 1 True, in epochs 2 and 3 False
VanillaKD: in train mode in epoch 1 True, in epochs 2 and 3 False"
