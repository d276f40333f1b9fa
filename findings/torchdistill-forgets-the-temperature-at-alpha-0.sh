#!/usr/bin/env bash
# torchdistill 1.1.5 with torch 2.13.0.
# `KDLoss` documents alpha * cross-entropy + (1 - alpha) * T^2 * KL, T the temperature. At alpha = 0, distillation without
# labels, it gives KL without T^2 (and without beta): at T = 4 a sixteenth of what alpha = 1e-9 gives, and so of the gradient.
# What helps: a tiny alpha, or a learning rate or a weight that is T^2 times as large.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env && env/bin/pip install --quiet torch==2.13.0 numpy==2.4.6 scipy pyyaml
env/bin/pip install --quiet --no-deps torchdistill==1.1.5
cat > distil.py <<'PY'
import torch
from torchdistill.losses.mid_level import KDLoss

torch.manual_seed(0)
student, teacher, labels = torch.randn(8, 10), torch.randn(8, 10), torch.arange(8)
said = {}
for alpha in (1e-9, 0.0):
    loss = KDLoss("fc", "output", "fc", "output", temperature=4.0, alpha=alpha)
    said[alpha] = loss({"fc": {"output": student}}, {"fc": {"output": teacher}}, labels).item()
print(f"alpha 1e-9 over alpha 0: {said[1e-9] / said[0.0]:.3f}")
PY
seen=$(env/bin/python distil.py)
echo "$seen"
test "$seen" = "alpha 1e-9 over alpha 0: 16.000"
