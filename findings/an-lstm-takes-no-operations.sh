#!/usr/bin/env bash
# torch 2.13.0.
# torch's own counter of operations knows kernels by name, and a layer whose work is done by one fused kernel that it does not know counts
# as nothing: an LSTM on a CPU, in training too (a GRU of the same size has its operations), attention on a CPU, and in evaluation
# the whole encoder layer of a transformer. There is no warning: the total is just too small, or 0.
# What helps: formulas of one's own for these kernels (`custom_mapping`), or an LSTMCell and a net in training mode.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env && env/bin/pip install --quiet torch==2.13.0 numpy==2.4.6
cat > count.py <<'PY'
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def operations(compute):
    with FlopCounterMode(display=False) as counter:
        compute()
    return counter.get_total_flops()


series = torch.randn(4, 10, 16)
print("GRU, forward and backward:", operations(lambda: nn.GRU(16, 32)(series)[0].sum().backward()))
print("LSTM, forward and backward:", operations(lambda: nn.LSTM(16, 32)(series)[0].sum().backward()))
layer = nn.TransformerEncoderLayer(16, 4, 64, batch_first=True)
print("encoder layer that is trained:", operations(lambda: layer(series)))
layer.eval()
with torch.no_grad():
    print("the same that is evaluated:", operations(lambda: layer(series)))
PY
seen=$(env/bin/python -W ignore count.py)
echo "$seen"
test "$seen" = "GRU, forward and backward: 921600
LSTM, forward and backward: 0
encoder layer that is trained: 271360
the same that is evaluated: 0"
