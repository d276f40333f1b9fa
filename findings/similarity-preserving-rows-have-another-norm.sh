#!/usr/bin/env bash
# torchdistill 1.1.5, torch 2.13.0 (CPU).
# `SPKDLoss`, similarity-preserving distillation, shall divide each row of the batch's similarities by its 2-norm, as the paper says and
# RepDistiller, mdistiller and KD-Zoo do. It calls `normalize(z @ z.T, 1)`, and the second place of torch's `normalize` is the
# norm, not the dimension: rows are divided by the sum of their magnitudes. The loss is smaller by far, so a weight that was
# published for it is none elsewhere, and of two rows the one with more small similarities counts for less than in the paper.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install --quiet torch==2.13.0 numpy==2.3.5 pyyaml==6.0.3
env/bin/pip install --quiet --no-deps torchdistill==1.1.5
cat > rows.py <<'PY'
import torch
import torch.nn.functional as F
from torchdistill.losses.mid_level import SPKDLoss

rows = torch.tensor([[3.0, 0.0, 0.0], [1.0, 2.0, 0.0], [0.0, 1.0, 1.0]])
loss = SPKDLoss(student_output_path="net", teacher_output_path="net", reduction="batchmean")
found = loss.matmul_and_normalize(rows)
print("rows' sums of magnitudes:", [round(value, 3) for value in found.abs().sum(1).tolist()])
print("rows' 2-norms:           ", [round(value, 3) for value in found.norm(dim=1).tolist()])
assert torch.allclose(found.abs().sum(1), torch.ones(3)), "the rows have another norm now"
assert not torch.allclose(found.norm(dim=1), torch.ones(3)), "the rows have a 2-norm of 1 now"

student, teacher = (torch.randn(64, 32, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
given = loss({"net": {"output": student}}, {"net": {"output": teacher}}).item()
of_paper = ((F.normalize(student @ student.T) - F.normalize(teacher @ teacher.T)) ** 2).sum().item() / 64**2
print(f"SPKDLoss {given:.2e}, the paper's {of_paper:.2e}: {of_paper / given:.0f} times as much")
assert of_paper > 10 * given, "the two are nearer to each other now"
PY
env/bin/python rows.py
