"""Code of a user's own that stands in a script, where no other process can import it from."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_strategy_loss_and_app_of_a_script_work_on_ray_as_in_process() -> None:
    script = Path(__file__).parent / "code_of_a_script.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    for in_process, on_ray in said.values():
        assert in_process == on_ray
    assert said["strategy"][1][-1][1] == said["loss"][1][-1][1] == 0  # nobody failed
    assert said["records"][1] == [3.0]
