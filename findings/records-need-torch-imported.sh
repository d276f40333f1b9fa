#!/usr/bin/env bash
# flwr 1.41.0 with torch 2.13.0.
# `ArrayRecord.to_torch_state_dict` looks for torch among the modules that are imported already and imports nothing itself.
# In a process that has torch installed and has not imported it yet - a worker that got its app by pickle, say - it says
# "PyTorch is required".
# What helps: import torch in the client's function, or in the worker, before records are read.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env && env/bin/pip install --quiet torch==2.13.0 numpy==2.4.6 flwr==1.41.0
cat > read.py <<'PY'
import numpy as np
from flwr.app import Array, ArrayRecord

record = ArrayRecord({"w": Array(np.ones(3, dtype=np.float32))})
try:
    record.to_torch_state_dict()
    print("read")
except RuntimeError as error:
    print("RuntimeError:", error)
import torch

print("after the import:", record.to_torch_state_dict()["w"].sum().item())
PY
seen=$(env/bin/python read.py)
echo "$seen"
test "$seen" = "RuntimeError: PyTorch is required to use to_torch_state_dict
after the import: 3.0"
