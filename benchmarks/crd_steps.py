"""CRD of RepDistiller and of fedkd, step by step, with the same random draws handed to both: do loss, gradient, memory agree?

    python benchmarks/crd_steps.py copies/RepDistiller        # two seconds; writes results/crd_steps.json

The students are free features of 256 samples, which both learn for 200 steps in float64, with their embeddings; banks, initial
embeddings, batches and negatives are the same. See ``side_by_side_teachers.py``, where each code draws its own.
"""

from __future__ import annotations

import argparse
import json
import sys
from argparse import Namespace
from pathlib import Path

import torch

from fedkd.losses import CRDLoss

RESULTS = Path(__file__).parent / "results" / "crd_steps.json"
SAMPLES, NEGATIVES, BATCH, STEPS = 256, 64, 32, 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("copy", help="a checkout of RepDistiller")
    sys.path.insert(0, parser.parse_args().copy)
    torch.Tensor.cuda = lambda self, *arguments, **more: self  # type: ignore[assignment, method-assign]  # no GPU is needed
    from crd.criterion import CRDLoss as TheirLoss

    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    labels, taught = torch.randint(0, 10, (SAMPLES,)), torch.randn(SAMPLES, 48)
    options = {"feat_dim": 128, "n_data": SAMPLES, "nce_k": NEGATIVES, "nce_t": 0.07, "nce_m": 0.5}
    theirs = TheirLoss(Namespace(s_dim=32, t_dim=48, **options)).double()
    ours = CRDLoss(32, 48, SAMPLES, labels=labels, negatives=NEGATIVES)
    ours.student_embedding.load_state_dict(theirs.embed_s.linear.state_dict())
    ours.teacher_embedding.load_state_dict(theirs.embed_t.linear.state_dict())
    ours.student_bank.copy_(theirs.contrast.memory_v1)
    ours.teacher_bank.copy_(theirs.contrast.memory_v2)
    start = torch.randn(SAMPLES, 32)
    features = [torch.nn.Parameter(start.clone()) for _ in range(2)]
    steps = [torch.optim.SGD([own, *loss.parameters()], lr=0.05) for own, loss in zip(features, (ours, theirs), strict=True)]
    losses = 0.0
    for _ in range(STEPS):
        ids = torch.randperm(SAMPLES)[:BATCH]
        others = (labels != labels[ids, None]).double()  # (B, N)
        negatives = torch.multinomial(others, NEGATIVES)
        ours.draw = lambda ids, rng=None, drawn=negatives: drawn  # type: ignore[method-assign]
        values = [
            ours(features[0][ids], taught[ids], ids),
            theirs(features[1][ids], taught[ids], ids, torch.cat([ids[:, None], negatives], 1)).sum(),
        ]
        losses = max(losses, abs(values[0].item() - values[1].item()))
        for value, optimizer in zip(values, steps, strict=True):
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    found = {
        "command": "python benchmarks/crd_steps.py copies/RepDistiller",
        "steps": STEPS,
        "largest difference of the loss": losses,
        "of the learnt features": float((features[0] - features[1]).abs().max()),
        "of the bank": float((ours.student_bank - theirs.contrast.memory_v1).abs().max()),
        "last loss": values[0].item(),
    }
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
