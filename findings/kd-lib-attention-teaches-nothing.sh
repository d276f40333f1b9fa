#!/usr/bin/env bash
# KD-Lib 0.0.32 with torch 2.13.0.
# `Attention`, attention transfer, hands what the nets return, logits, to a loss over lists of feature maps. That walks over the
# samples, takes each one's C logits for a batch of C maps of one place, and divides each such map by its length: everything
# becomes 1, student and teacher agree, and the loss and its gradient are 0 whatever the teacher says. What is left is
# cross-entropy at temperature 20. Nets that return (logits, maps), as it would need, fail in a division of a tuple.
# What helps: another library's attention transfer.
# The package asks for torch 1.8.1 and its like; the code that runs here needs none of that, but its `KD/__init__.py` imports
# parts on text that do, and is stepped over.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env && env/bin/pip install --quiet torch==2.13.0 numpy==2.4.6 matplotlib tensorboard
env/bin/pip install --quiet --no-deps KD-Lib==0.0.32
cat > attend.py <<'PY'
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
from KD_Lib.KD.vision import Attention

torch.manual_seed(0)
loader = DataLoader(TensorDataset(torch.randn(64, 8), torch.arange(64) % 4), batch_size=16)
noted = []


class Noting(Attention):
    """Notes the loss between student and teacher, without its cross-entropy, and its gradient."""

    def calculate_kd_loss(self, student, teacher, labels):
        loss = self.loss_fn(teacher, student)
        gradient = torch.autograd.grad(loss, student, retain_graph=True)[0]
        noted.append((loss.item(), gradient.abs().max().item(), (student - teacher).abs().mean().item()))
        return super().calculate_kd_loss(student, teacher, labels)


teacher, student = nn.Linear(8, 4), nn.Linear(8, 4)
sgd = [torch.optim.SGD(net.parameters(), lr=0.01) for net in (teacher, student)]
Noting(teacher, student, loader, loader, *sgd).train_student(epochs=1, plot_losses=False, save_model=False)
losses, gradients, distances = zip(*noted)
text = f"loss at most {max(losses):.0e}, gradient {max(gradients):.0e}, while logits are more than 0.1 apart: {min(distances) > 0.1}"
print(text, file=sys.stderr)
PY
seen=$(env/bin/python -W ignore attend.py 2>&1 >/dev/null | grep loss)
echo "$seen"
test "$seen" = "loss at most 0e+00, gradient 0e+00, while logits are more than 0.1 apart: True"
