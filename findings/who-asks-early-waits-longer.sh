#!/usr/bin/env bash
# flwr 1.41.0.
# A message is announced before its arrays are there. Who pulls a part that is still on its way asks again after a whole second, then
# after two, four, up to ten. A SuperNode or a ServerApp that looks for messages every three seconds seldom comes too early; one that
# looks every tenth of a second nearly always does, and its exchanges take longer than those of the patient one.
# What helps: `pull_objects` has `initial_backoff` as a keyword, with the second as its default.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env && env/bin/pip install --quiet flwr==1.41.0
cat > pull.py <<'PY'
import time

from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError, pull_objects


def there_after(seconds):
    """A part of a message that arrives so many seconds after it was announced."""
    announced = time.monotonic()

    def pull(name):
        if time.monotonic() - announced < seconds:
            raise ObjectUnavailableError(name)
        return b"part"

    return pull


def waited(arrives, **how):
    start = time.monotonic()
    pull_objects(["part"], there_after(arrives), **how)
    return time.monotonic() - start


print("there at once:", "at once" if waited(0) < 0.2 else "later")
print("there after 0.05 s:", "after 0.8 s or more" if waited(0.05) >= 0.8 else "soon")
print("the same, asked again after 0.05 s:", "soon" if waited(0.05, initial_backoff=0.05) < 0.6 else "later")
PY
seen=$(env/bin/python pull.py)
echo "$seen"
test "$seen" = "there at once: at once
there after 0.05 s: after 0.8 s or more
the same, asked again after 0.05 s: soon"
