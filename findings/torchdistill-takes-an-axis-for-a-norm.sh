#!/usr/bin/env bash
# torchdistill 1.1.5 with torch 2.13.0.
# Similarity-preserving distillation divides each row of the batch's similarities by its 2-norm (Tung and Mori 2019, equation 3).
# `SPKDLoss` calls normalize(similarities, 1): the second argument of torch's `normalize` is the norm's order and not the axis, so
# rows are divided by their 1-norm. The loss is about as many times smaller as the batch has samples, so that the weights of the
# paper and of other code, 3000 for instance, hardly count.
# What helps: a weight as many times as large, or the loss by hand.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env && env/bin/pip install --quiet torch==2.13.0 numpy==2.4.6 scipy pyyaml
env/bin/pip install --quiet --no-deps torchdistill==1.1.5
cat > compare.py <<'PY'
import torch
from torch.nn.functional import normalize
from torchdistill.losses.mid_level import SPKDLoss

torch.manual_seed(0)
student, teacher = torch.rand(64, 128), torch.rand(64, 256)  # as after a ReLU
theirs = SPKDLoss("map", "map", reduction="batchmean")({"map": {"output": student}}, {"map": {"output": teacher}}).item()


def by_order(order):
    rows = [normalize(features @ features.T, p=order, dim=1) for features in (student, teacher)]
    return ((rows[0] - rows[1]) ** 2).sum().item() / 64**2


print("with 1-norms it is", abs(theirs / by_order(1) - 1) < 1e-4)
print(f"by the paper it is {by_order(2) / theirs:.0f} times as large")
PY
seen=$(env/bin/python compare.py)
echo "$seen"
test "$seen" = "with 1-norms it is True
by the paper it is 64 times as large"
