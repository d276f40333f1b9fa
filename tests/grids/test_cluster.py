"""Which Ray is joined, and what starting one leaves alone."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from programs import free_ports

from fedkd.base.errors import InputError
from fedkd.grids import cluster
from fedkd.grids.worker import ClientWorker


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nothing_listens_is_refused_at_once(scheme: str) -> None:
    address = f"{scheme}127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(
        InputError, match=rf"^engine\.address: no Ray cluster at '{address}' \(.*refused.*\): start one with `ray"
    ):
        cluster.check_answers(address)


@pytest.mark.slow
def test_a_port_of_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        with pytest.raises(InputError, match="what answers there is not Ray"):
            cluster.check_answers(f"127.0.0.1:{server.getsockname()[1]}")


def test_rays_token_does_not_go_to_the_users_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")
    monkeypatch.delenv("RAY_AUTH_TOKEN")  # and put back as it was at the end
    cluster.keep_token_out_of_home()
    token = os.environ["RAY_AUTH_TOKEN"]
    assert len(token) == 64
    cluster.keep_token_out_of_home()
    assert os.environ["RAY_AUTH_TOKEN"] == token  # all clusters of a process share it


def test_a_token_that_the_user_has_is_the_one_that_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("mine")
    cluster.keep_token_out_of_home()
    assert "RAY_AUTH_TOKEN" not in os.environ


@pytest.mark.parametrize(("gpus", "visible"), [(False, ""), (True, "0,1")])
def test_a_worker_without_gpus_sees_none(gpus: bool, visible: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    ClientWorker(imports=[], gpus=gpus)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible


def test_ray_is_started_without_reports_and_without_a_process_that_looks_for_clouds(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def init(**arguments: Any) -> None:
        asked.update(arguments, usage=os.environ["RAY_USAGE_STATS_ENABLED"])
        with pytest.raises(OSError), socket.create_server(("127.0.0.1", arguments["dashboard_port"])):
            raise AssertionError("the dashboard could have had its port")

    monkeypatch.setattr(cluster.ray, "init", init)
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: None)  # other tests' Ray may run in this process
    monkeypatch.setattr(cluster.ray, "cluster_resources", lambda: {"CPU": 8.0})
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    with cluster.connected("", actors=1, num_cpus=1, num_gpus=0):
        pass
    assert asked["usage"] == "0"
    assert asked["include_dashboard"] is False
    assert asked["dashboard_host"] == "127.0.0.1"
