#!/usr/bin/env bash
# safetensors 0.8.0.
# `save_file` on a disk that is full, or past the size that a process may write, raises `SafetensorError`, which is no `OSError` and has no
# `errno`: the number stands in the text only. Code that keeps its old file, or frees room, on `OSError` with ENOSPC never does.
# What helps: read "os error N" from the text; or `save` to bytes and write these, which raises what writing raises.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env && env/bin/pip install --quiet safetensors==0.8.0 numpy==2.4.6
cat > write.py <<'PY'
import resource
import signal

import numpy as np
from safetensors.numpy import save, save_file

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # no file of over 1,000 bytes
tensors = {"weight": np.ones(1000)}
try:
    save_file(tensors, "net.safetensors")
except Exception as error:
    print("save_file:", type(error).__name__, isinstance(error, OSError), hasattr(error, "errno"), "os error 27" in str(error))
try:
    with open("net.safetensors", "wb", buffering=0) as file:
        content = memoryview(save(tensors))
        while content:
            content = content[file.write(content) :]
except OSError as error:
    print("write:", error.errno)
PY
seen=$(env/bin/python write.py)
echo "$seen"
test "$seen" = "save_file: SafetensorError False False True
write: 27"
