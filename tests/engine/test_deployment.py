"""A real SuperLink and two real SuperNodes give the rows that the in-process run of the same experiment gives."""

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from flwr.common.config import flatten_dict
from own_data import CLASSES, images, write
from programs import Programs, flower_environment, free_ports, listens

from fedkd import Experiment, simulate
from fedkd.results.history import TIMES

APP = Path(__file__).parents[2] / "deployment"
BIN = Path(sys.executable).parent
OVERRIDES = {"rounds": "2", "evaluate_every": "2"}  # each exchange takes Flower ten seconds


def rows(file: Path) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in json.loads(line).items() if key not in TIMES} for line in file.read_text().splitlines()
    ]


def test_the_app_lists_every_key_of_its_experiment() -> None:
    listed = tomllib.loads((APP / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    experiment = Experiment.from_toml(APP / "fedx.toml")
    assert flatten_dict(listed) == {"out": "", "resume": False, **experiment.to_flat()}


def app_of(experiment: Experiment, folder: Path) -> Path:
    """A Flower app whose run-config is this experiment's."""
    head, _, _ = (APP / "pyproject.toml").read_text().partition("resume = false\n")
    flat = "\n".join(f"{key} = {json.dumps(value)}" for key, value in experiment.to_flat().items())
    folder.mkdir()
    (folder / "pyproject.toml").write_text(f"{head}resume = false\n{flat}\n")
    return folder


def deploy(app: Path, config: str, supernode: list[str], nodes: list[str], folder: Path) -> str:
    """Run an app on a SuperLink and SuperNodes with these configs; what ``flwr run`` shows."""
    link, *ports = free_ports(1 + len(nodes))
    home = folder / "flwr"
    home.mkdir()
    connection = f'[superlink.loopback]\naddress = "127.0.0.1:{link}"\ninsecure = true\n'
    (home / "config.toml").write_text(connection)
    with Programs(folder, flower_environment(home)) as programs:
        programs.start(
            *("superlink", f"{BIN}/flower-superlink", "--insecure", "--disable-runtime-dependency-installation"),
            *("--host", "127.0.0.1", "--port", str(link)),
        )
        for client, (port, node) in enumerate(zip(ports, nodes, strict=True)):
            programs.start(
                *(f"supernode-{client}", *supernode, "--insecure", "--superlink", f"127.0.0.1:{link}"),
                *("--host", "127.0.0.1", "--port", str(port), "--node-config", f"partition-id={client} {node}"),
            )
        programs.wait_until("the SuperLink listens", lambda: listens(link), 120)
        flwr = programs.start("flwr", f"{BIN}/flwr", "run", str(app), "loopback", "--stream", "--run-config", config)
        programs.wait_until("flwr run has ended", lambda: flwr.process.poll() is not None, 600, ends=flwr)
        assert flwr.process.returncode == 0, programs.report("flwr run failed")
        assert "'" in config and Path(config.split("'")[1], "report.html").exists(), programs.report("the run left no report")
        return flwr.log.read_text()


@pytest.mark.slow
def test_a_deployment_gives_the_rows_of_the_in_process_run(tmp_path: Path) -> None:
    """On Flower's SuperNodes as they come."""
    deployed, here = tmp_path / "deployed", tmp_path / "here"
    config = " ".join([f"out='{deployed}'", *(f"{key}={value}" for key, value in OVERRIDES.items())])
    shown = deploy(APP, config, [f"{BIN}/flower-supernode"], ["", ""], tmp_path)
    assert "round 1/2  loss" in shown
    simulate(Experiment.from_toml(APP / "fedx.toml", OVERRIDES), out=here)
    for name in ("metrics.jsonl", "clients.jsonl"):
        assert rows(deployed / name) == rows(here / name)
    assert [row["clients_ok"] for row in rows(deployed / "metrics.jsonl")] == [0, 2, 2]
    assert (deployed / "experiment.toml").read_text() == (here / "experiment.toml").read_text()


@pytest.mark.slow
def test_where_each_node_has_its_own_data_the_rows_are_those_of_their_folders_simulated(tmp_path: Path) -> None:
    """The server's folder has public samples only: the clients' own scores are the headline."""
    sites, server = tmp_path / "sites", tmp_path / "server"
    for seed, name in enumerate(("north", "south")):
        write(sites / "client" / f"{name}.npz", train=images(30 + 10 * seed, seed))
    server.mkdir()
    public = write(server / "public.npz", train=images(40, 2))
    data = {"clients": 2, "partition": "own", "public": 12, "public_source": public, "classes": CLASSES}
    nets = {"nets": "mlp", "net_options": {"mlp": {"hidden": (8,)}}}
    small = {"strategy": "dsfl", "rounds": 1, "timeout": 600.0, **nets}
    app = app_of(Experiment(**small, data={**data, "source": str(server)}), tmp_path / "app")  # type: ignore[arg-type]
    nodes = [f"data-path='{sites}/client/{name}.npz'" for name in ("north", "south")]
    deploy(app, f"out='{tmp_path / 'deployed'}'", [f"{BIN}/fedkd", "supernode"], nodes, tmp_path)
    here = Experiment(**small, data={**data, "source": str(sites)})  # type: ignore[arg-type]
    simulate(here, out=tmp_path / "here")
    for name in ("metrics.jsonl", "clients.jsonl"):
        assert rows(tmp_path / "deployed" / name) == rows(tmp_path / "here" / name)
    last = rows(tmp_path / "deployed" / "metrics.jsonl")[-1]
    assert last["accuracy"] == last["client_accuracy"]
    assert last["accuracy_of"].endswith("each on its own test samples")
