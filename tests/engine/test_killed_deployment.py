"""The ServerApp of a real deployment is killed with -9, again and again, and the run still ends as it would have."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
from programs import Program, Programs, descendants, flower_environment, free_ports, listens
from test_deployment import app_of, rows

from fedkd import Experiment, simulate

BIN = Path(sys.executable).parent
KILLS = 3
#: Nets of clients' own, momentum, and codecs against the last message, on both links.
EXPERIMENT = Experiment(
    strategy="fedmd",
    rounds=4,
    evaluate_every=2,
    timeout=300.0,
    nets={"cnn": 0.5, "mlp": 0.5},
    net_options={"cnn": {"channels": (4, 8), "hidden": 16}},
    uplink=("delta", "deflate"),
    downlink=("delta",),
    train={"momentum": 0.9},
    data={"clients": 2, "partition": "iid", "public": 40, "train_limit": 240, "test_limit": 60},
)


def server_apps(superlink: Program) -> list[int]:
    """The processes of ServerApps below the SuperLink."""
    found = []
    for process in descendants(superlink.process.pid):
        try:
            command = Path(f"/proc/{process.id}/cmdline").read_bytes().replace(b"\0", b" ")
        except OSError:  # it has just ended
            continue
        found += [process.id] if b"flwr-serverapp" in command else []
    return found


def rounds_written(out: Path) -> int:
    return len(rows(out / "metrics.jsonl")) if (out / "metrics.jsonl").exists() else 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes as Linux shows them")
def test_a_killed_server_goes_on_with_clients_as_they_were(tmp_path: Path) -> None:
    app, out, rng = app_of(EXPERIMENT, tmp_path / "app"), tmp_path / "deployed", random.Random(0)
    (home := tmp_path / "flwr").mkdir()
    link, *ports = free_ports(3)
    (home / "config.toml").write_text(f'[superlink.loopback]\naddress = "127.0.0.1:{link}"\ninsecure = true\n')
    with Programs(tmp_path, flower_environment(home)) as programs:
        superlink = programs.start(
            *("superlink", f"{BIN}/flower-superlink", "--insecure", "--disable-runtime-dependency-installation"),
            *("--host", "127.0.0.1", "--port", str(link)),
        )
        for client, port in enumerate(ports):
            config = f"partition-id={client} memory-path='{tmp_path / f'kept-{client}'}'"
            programs.start(
                *(f"supernode-{client}", f"{BIN}/fedkd", "supernode", "--insecure", "--superlink", f"127.0.0.1:{link}"),
                *("--host", "127.0.0.1", "--port", str(port), "--node-config", config),
            )
        programs.wait_until("the SuperLink listens", lambda: listens(link), 120)
        for turn in range(KILLS + 1):
            config = f"out='{out}'" + (" resume=true" if turn else "")
            flwr = programs.start(
                f"flwr-{turn}", f"{BIN}/flwr", "run", str(app), "loopback", "--stream", "--run-config", config
            )
            if turn < KILLS:
                wanted = turn + 1
                programs.wait_until(f"{wanted} rows are written", lambda wanted=wanted: rounds_written(out) >= wanted, 200)  # type: ignore[misc]
                time.sleep(rng.random() / 2)  # some moment of the next round
                victims = server_apps(superlink)
                assert victims, programs.report("no ServerApp was at work")
                for process in victims:
                    os.kill(process, signal.SIGKILL)
                flwr.stop()
                programs.forget(flwr)
        programs.wait_until("flwr run has ended", lambda: flwr.process.poll() is not None, 300, ends=flwr)
        assert (out / "report.html").exists(), programs.report("the run left no report")
        assert "go on without what they kept" not in superlink.log.read_text()
    simulate(EXPERIMENT, out=tmp_path / "here")
    for name in ("metrics.jsonl", "clients.jsonl"):
        assert rows(out / name) == rows(tmp_path / "here" / name)
