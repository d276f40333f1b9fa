#!/usr/bin/env bash
# EasyFL 0.1.2 (easyfl), with torch 2.13.0.
# Its data sets are shuffled by `np.random.shuffle`, after `process_x` and `process_y` have made tensors of them, which they do by default
# and for FEMNIST, the data set that it takes by itself. NumPy swaps two rows by `x[i], x[j] = x[j], x[i]`; rows of a tensor are
# views, so that one of the two is lost and the other is there twice. Images and labels go wrong alike. A client has as many samples as
# before, and trains on half of them, always the same half, as its loader is made once.
# What helps: `process_x=None, process_y=None`, which leaves arrays, and NumPy shuffles these well.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install --quiet torch==2.13.0 numpy pillow protobuf==3.20.3 omegaconf==2.3.0 grpcio requests tqdm kubernetes etcd3==0.12.0
env/bin/pip install --quiet --no-deps easyfl==0.1.2
cat > shuffle.py <<'PY'
import sys
import warnings
from unittest.mock import MagicMock

import torch

parts = ("", ".datasets", ".datasets.folder", ".transforms", ".models", ".models.resnet")
sys.modules |= {f"torchvision{part}": MagicMock() for part in parts}  # imported for images and nets that are not used here
from easyfl.datasets import FederatedTensorDataset

warnings.simplefilter("ignore")  # NumPy warns that shuffling no array "may" duplicate


def trained_on(**how):
    client = {"x": [[float(sample)] for sample in range(1000)], "y": list(range(1000))}
    data = FederatedTensorDataset({"one": client}, simulated=True, **how)
    loader = data.loader(50, "one", shuffle=True)
    epochs = [torch.cat([y for _, y in loader]) for _ in range(5)]
    return f"{len(epochs[0])} samples an epoch, {len(torch.cat(epochs).unique())} different ones in five epochs"


print("by default:", trained_on())
print("with arrays:", trained_on(process_x=None, process_y=None, transform=torch.as_tensor))
PY
seen=$(env/bin/python shuffle.py)
echo "$seen"
test "$seen" = "by default: 1000 samples an epoch, 507 different ones in five epochs
with arrays: 1000 samples an epoch, 1000 different ones in five epochs"
