#!/usr/bin/env bash
# flwr 1.41.0.
# A ConfigRecord takes an empty text and an empty list as values, and sends them. `count_bytes()` of such a record raises: for the
# text a ValueError that says "str" is among the types it wants, for the list an IndexError. Flower's `message_size_mod` counts the
# bytes of every message, so an app that has it answers each message with such a value by an error.
# What helps: leave the key out instead of giving it an empty value, or leave the mod out (`arrays_size_mod` counts arrays only).
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env && env/bin/pip install --quiet flwr==1.41.0
cat > count.py <<'PY'
from flwr.app import ConfigRecord

for value in ("full", "", [1], []):
    record = ConfigRecord({"key": value})
    try:
        print(repr(value), record.count_bytes())
    except (ValueError, IndexError) as error:
        print(repr(value), f"{type(error).__name__}: {error}")
PY
seen=$(env/bin/python count.py)
echo "$seen"
test "$seen" = "'full' 7
'' ValueError: Config values must be either \`bool\`, \`int\`, \`float\`, \`str\`, or \`bytes\`
[1] 11
[] IndexError: list index out of range"
