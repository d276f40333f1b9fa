#!/usr/bin/env bash
# torch 2.13.0 (CPU).
# `torch.Generator.manual_seed` takes a seed of 64 bits, and `initial_seed` gives it back whole, but the CPU generator (a Mersenne
# twister) is seeded by the low 32 bits alone: two seeds that are equal there draw the same numbers. Seeds that are hashes have
# 2**32 streams, not 2**64, and no secret larger than that lies in them.
# What helps: nothing for simulations, where 2**32 streams are plenty; for secret noise draw from the operating system.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env && env/bin/pip install --quiet torch==2.13.0
cat > draw.py <<'PY'
import torch

one, other = (torch.Generator().manual_seed(seed) for seed in (5, 5 + 2**32))
print("seeds:", one.initial_seed(), other.initial_seed())
print("equal draws:", torch.equal(torch.randn(1000, generator=one), torch.randn(1000, generator=other)))
PY
seen=$(env/bin/python -W ignore draw.py)
echo "$seen"
test "$seen" = "seeds: 5 4294967301
equal draws: True"
