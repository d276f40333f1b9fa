#!/usr/bin/env bash
# pytest-xdist 3.8.0 with pytest 9.2.0.
# `--dist loadgroup` keeps tests with the same `xdist_group` mark in one process, by a suffix that it writes into the test's
# private node id. pytest 9.2 no longer computes a test's id from there, so every test is a group of its own.
# Seen: four tests of one group run in both processes, without a word. With pytest 9.1.0 they run in one.
# What helps: a scheduler of one's own (the hook pytest_xdist_make_scheduler), or an older pytest.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
for name in one two; do
    cat > "test_$name.py" <<'PY'
import os
import time

import pytest


@pytest.mark.xdist_group("together")
@pytest.mark.parametrize("number", range(2))
def test_where(number):
    with open("where", "a") as file:
        print(os.environ["PYTEST_XDIST_WORKER"], file=file)
    time.sleep(0.5)
PY
done
seen=""
for version in 9.1.0 9.2.0; do
    rm -f where
    python3 -m venv --clear env && env/bin/pip install --quiet pytest=="$version" pytest-xdist==3.8.0
    env/bin/python -m pytest -q -p no:cacheprovider --dist loadgroup -n 2 > /dev/null
    seen="$seen$version: $(sort -u where | wc -l) process(es); "
done
echo "$seen"
test "$seen" = "9.1.0: 1 process(es); 9.2.0: 2 process(es); "
