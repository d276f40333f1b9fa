#!/usr/bin/env bash
# cloudpickle 3.1.2 (and Ray's copy of it) with pydantic 2.14.3.
# A dataclass of a script or a notebook travels by value. `dataclasses.MISSING`, the mark of a field without a default, is
# an instance like any other to pickle, so the copy's fields hold another object in its place: nothing that compares with
# `is MISSING` knows it. pydantic then takes a field with a default for one with a default and a default factory.
# Seen: "TypeError: cannot specify both default and default_factory", in the other process only.
# What helps: put MISSING back into the copy's __dataclass_fields__ before anything reads them.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env && env/bin/pip install --quiet cloudpickle==3.1.2 pydantic==2.14.3
cat > sender.py <<'PY'
import sys
from dataclasses import dataclass

import cloudpickle


@dataclass(frozen=True)
class Settings:
    rate: float = 0.1


sys.stdout.buffer.write(cloudpickle.dumps(Settings))
PY
cat > receiver.py <<'PY'
import dataclasses
import sys

import cloudpickle
from pydantic import TypeAdapter

cls = cloudpickle.loads(sys.stdin.buffer.read())
field = cls.__dataclass_fields__["rate"]
print("same mark:", field.default_factory is dataclasses.MISSING, "same type:", type(field.default_factory) is type(dataclasses.MISSING))
try:
    print(TypeAdapter(cls).validate_python({"rate": 0.2}))
except TypeError as error:
    print("TypeError:", error)
PY
seen=$(env/bin/python sender.py | env/bin/python receiver.py)
echo "$seen"
test "$seen" = "same mark: False same type: True
TypeError: cannot specify both default and default_factory"
