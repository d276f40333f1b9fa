#!/usr/bin/env bash
# safetensors 0.8.0.
# Tensors are written in a fixed order, so the same tensors give the same file, whatever process writes it. What stands beside them as
# metadata has no order: with two or more entries the same call gives files with different bytes, in one process too. A file whose
# digest is to be compared, or a run that is to be repeated to the last bit, must not have them.
# What helps: one entry, with JSON in it.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env && env/bin/pip install --quiet safetensors==0.8.0 numpy==2.4.6
cat > save.py <<'PY'
import numpy
from safetensors.numpy import save

tensors = {f"layer {number}": numpy.zeros(2) for number in range(5)}


def files(metadata):
    return len({save(tensors, metadata=metadata) for _ in range(200)})


print("no metadata:", files(None), "file")
print("one entry:", files({"round": "1"}), "file")
print("two entries:", "several files" if files({"round": "1", "run": "2"}) > 1 else "1 file")
PY
seen=$(env/bin/python save.py)
echo "$seen"
test "$seen" = "no metadata: 1 file
one entry: 1 file
two entries: several files"
