#!/usr/bin/env bash
# flwr 1.41.0.
# `flwr run` and `flwr build` look for the apps of a project by reading its file, not by importing it: a name counts only where it
# stands alone on the left of an equals sign. `client, server = ClientApp(), ServerApp()` imports and works, and is refused with
# "Unable to find attribute"; so is a name with a type, `client: ClientApp = ClientApp()`.
# What helps: one plain assignment for each app.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env && env/bin/pip install --quiet flwr==1.41.0
head='from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
'
printf '%s%s\n' "$head" 'client, server = ClientApp(), ServerApp()' > pair.py
printf '%s%s\n' "$head" 'client: ClientApp = ClientApp()' > typed.py
printf '%s%s\n' "$head" 'client = ClientApp()' > plain.py
cat > look.py <<'PY'
from importlib import import_module

from flwr.supercore.object_ref import validate

for name in ("pair", "typed", "plain"):
    there = hasattr(import_module(name), "client")
    found, why = validate(f"{name}:client", project_dir=".")
    print(name, "imported:", there, "found:", found, (why or "").split("\n")[0])
PY
seen=$(env/bin/python look.py)
echo "$seen"
test "$seen" = "pair imported: True found: False Unable to find attribute client in module pair
typed imported: True found: False Unable to find attribute client in module typed
plain imported: True found: True "
