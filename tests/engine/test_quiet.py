"""A run speaks to nobody, and its logs hold no table and no place where data lie."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedkd import Experiment, simulate

#: Runs what it is given with every address noted that Python connects to, looks up, or sends to.
LISTEN = """
import json, sys
asked = []
KINDS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg")

def hear(event, arguments):
    if event in KINDS:
        asked.append([event, str(arguments[-1] if event == "socket.connect" else arguments[0])])

sys.addaudithook(hear)
"""
RUN = """
from pathlib import Path
from fedkd import Experiment, simulate

simulate(Experiment(strategy="fedmd", rounds=1, nets="mlp", record={"uploads": True},
    data={"clients": 2, "train_limit": 60, "public": 10, "test_limit": 20}), out="run")
"""
OTHER = """
from fedkd.engine.audit.audit import audit
from fedkd.engine.export import Choice, export

audit(Path("run"), shadow_runs=2)
export(Path("run"), Path("net"), Choice(0))
"""


def heard(code: str, place: Path) -> list[list[str]]:
    whole = f"{LISTEN}\n{code}\nprint(json.dumps(asked))"
    done = subprocess.run([sys.executable, "-c", whole], cwd=place, capture_output=True, text=True, timeout=240, check=True)
    found: list[list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_a_run_its_audit_and_its_export_connect_to_nothing(tmp_path: Path) -> None:
    assert heard(RUN + OTHER, tmp_path) == []


@pytest.mark.slow
def test_the_ear_hears(tmp_path: Path) -> None:
    code = "import socket\nwith socket.create_server(('127.0.0.1', 0)) as s: socket.create_connection(s.getsockname()).close()"
    assert ["socket.connect"] in [[kind] for kind, _ in heard(code, tmp_path)]


@pytest.mark.slow
@pytest.mark.parametrize("faults", [{}, {"crash": 0.5, "nan": 0.3}])
def test_logs_hold_no_table_and_no_place_of_the_data(
    faults: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """At the most talkative level; a number of a table would stand in brackets, as torch and numpy print them."""
    caplog.set_level(logging.DEBUG)
    table = tmp_path / "ward-7" / "patients.csv"
    table.parent.mkdir()
    table.write_text(
        "age,dose,ill\n" + "".join(f"{row % 61},{row % 7},{'yes' if row % 61 > 30 else 'no'}\n" for row in range(300))
    )
    data = {"source": str(table), "label_column": "ill", "clients": 3, "public": 20}
    settings = Experiment(strategy="fedmd", rounds=2, nets="mlp", data=data, faults=faults)
    caplog.clear()
    capfd.readouterr()
    history = simulate(settings, out=tmp_path / "run")
    printed = capfd.readouterr()
    said = "\n".join([*(record.getMessage() for record in caplog.records), printed.out, printed.err])
    assert "ward-7" not in said and "tensor(" not in said and "array(" not in said and "[[" not in said
    rows = json.dumps([*history.metrics, *history.clients])
    assert "ward-7" not in rows and "tensor(" not in rows and "[[" not in rows
    if faults:
        assert any(row["clients_failed"] for row in history.metrics)
