#!/usr/bin/env bash
# ray 2.60.0 (2.55.1 does not).
# A plain `ray.init()` of a cluster on this machine writes a secret to ~/.ray/auth_token and leaves it there. With a token in the
# environment (RAY_AUTH_TOKEN) it writes none.
# What helps: give it a token of one's own in the environment, for as long as the process lives.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env && env/bin/pip install --quiet ray==2.60.0
cat > start.py <<'PY'
import logging
import os
import sys
from pathlib import Path

import ray

if sys.argv[1] == "token":
    os.environ["RAY_AUTH_TOKEN"] = "0" * 64
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
ray.shutdown()
print(sys.argv[1], "->", sorted(str(file.relative_to(Path.home())) for file in Path.home().rglob("*") if file.is_file()))
PY
mkdir one two
export RAY_USAGE_STATS_ENABLED=0 PYTHONWARNINGS=ignore
seen=$(HOME=$folder/one env/bin/python start.py nothing 2>/dev/null; HOME=$folder/two env/bin/python start.py token 2>/dev/null)
echo "$seen"
test "$seen" = "nothing -> ['.ray/auth_token']
token -> []"
