"""An exported net loads in a fresh process by the code of its own card, and scores what the run says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from test_cli import Fedkd, fedkd  # noqa: F401 - a fixture

from fedkd import Experiment, InputError, simulate
from fedkd.engine.export import Choice, export
from fedkd.results.files import read_lines

ASK = """
samples, labels = torch.load("asked.pt")
print((answer(samples).argmax(1) == labels).double().mean().item())
"""


def experiment(**changes: Any) -> Experiment:
    data = {"clients": 3, "partition": "iid", "train_limit": 200, "client_test": 0.3, **changes.pop("data", {})}
    options = {"mlp": {"hidden": [12]}, "cnn": {"channels": [4, 4], "hidden": 8}}
    base = {"rounds": 2, "nets": "mlp", "net_options": options, "train": {"lr": 0.1, "epochs": 3}, "data": data}
    return Experiment(**{**base, **changes})


def accuracy_in_a_fresh_process(place: Path, samples: torch.Tensor, labels: torch.Tensor) -> float:
    """By the Python in the card, run in the directory, with a question to ``answer`` at its end."""
    torch.save((samples, labels), place / "asked.pt")
    found = re.search(r"```python\n(.*?)```", (place / "README.md").read_text(), re.DOTALL)
    assert found
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", found[1] + ASK], cwd=place, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"strategy": "fedmd", "nets": {"mlp": 0.5, "cnn": 0.5}, "data": {"public": 30}},
        {"strategy": "fml", "shared_net": "mlp", "nets": "cnn"},
        {"strategy": "local", "data": {"normalise": "client"}},
        {"strategy": "local", "data": {"source": "breast_cancer", "normalise": "none"}},
    ],
    ids=["mixed nets", "two nets", "own moments", "a table"],
)
def test_a_clients_net_scores_what_the_run_says(changes: dict[str, Any], tmp_path: Path) -> None:
    settings = experiment(**changes)
    simulate(settings, out=tmp_path / "run")
    export(tmp_path / "run", tmp_path / "mine", Choice(2))
    said = [row for row in read_lines(tmp_path / "run" / "clients.jsonl") if row["client"] == 2][-1]["accuracy"]
    samples, labels, _ = (test := settings.federation().client_test(2)).take(torch.arange(len(test)))
    assert isinstance(samples, torch.Tensor)
    assert accuracy_in_a_fresh_process(tmp_path / "mine", samples, labels) == pytest.approx(said)
    card = ModelCard.load(tmp_path / "mine" / "README.md")
    (result,) = card.data.eval_results
    assert result.metric_value == said and card.data.library_name == "fedkd"


@pytest.mark.slow
def test_the_servers_net_by_the_command(fedkd: Fedkd, tmp_path: Path) -> None:  # noqa: F811
    settings = experiment(strategy="fedavg")
    simulate(settings, out=tmp_path / "run")
    done = fedkd(f"fedkd export {tmp_path / 'run'} --server")
    assert done.code == 0 and "run-server" in done.out
    place = tmp_path / "run-server"
    assert sorted(file.name for file in place.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    samples, labels, _ = (test := settings.federation().test).take(torch.arange(len(test)))
    assert isinstance(samples, torch.Tensor)
    said = read_lines(tmp_path / "run" / "metrics.jsonl")[-1]["accuracy"]
    assert accuracy_in_a_fresh_process(place, samples, labels) == pytest.approx(said)
    again = fedkd(f"fedkd export {tmp_path / 'run'} --server")
    assert again.code == 2 and "is there already: give a new directory with --out" in again.err
    for words in ("", "--client 1 --server"):
        assert "--client NUMBER or --server, one of the two" in fedkd(f"fedkd export {tmp_path / 'run'} {words}").err


@pytest.mark.slow
def test_what_a_run_has_not_is_said_and_no_place_of_this_machine(tmp_path: Path) -> None:
    table = tmp_path / "patients.csv"
    table.write_text(
        "age,dose,ill\n" + "".join(f"{row % 61},{row % 7},{'yes' if row % 61 > 30 else 'no'}\n" for row in range(200))
    )
    data = {"source": str(table), "label_column": "ill"}
    simulate(experiment(strategy="fml", rounds=1, data=data), out=tmp_path / "run")
    for choice, told in (
        (Choice(7), "client 7 kept no net; the run left"),
        (Choice(0, "mine"), "client 0 has the nets .*: choose one with --net"),
    ):
        with pytest.raises(InputError, match=told):
            export(tmp_path / "run", tmp_path / "out", choice)
        assert not (tmp_path / "out").exists()
    export(tmp_path / "run", tmp_path / "out", Choice(0))
    texts = [(tmp_path / "out" / name).read_text() for name in ("README.md", "config.json")]
    assert "patients.csv" in texts[0] and not any(str(tmp_path) in text for text in texts)


@pytest.mark.slow
def test_weights_that_no_net_of_the_zoo_has_come_with_a_card_that_says_so(tmp_path: Path) -> None:
    settings = experiment(strategy="cl_ilr", rounds=1, nets="cnn")
    simulate(settings, out=tmp_path / "run")
    export(tmp_path / "run", tmp_path / "out", Choice(None))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["net"] == ""
    assert "for load_state_dict of the net" in (tmp_path / "out" / "README.md").read_text()


def test_no_run_no_export(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        export(tmp_path, tmp_path / "out", Choice(0))


@pytest.mark.slow
def test_a_round_whose_checkpoint_stayed_and_the_best_one(tmp_path: Path) -> None:
    settings = experiment(strategy="fedavg", rounds=4, record={"checkpoints": 1, "best": "loss"})
    simulate(settings, out=tmp_path / "run")
    rows = read_lines(tmp_path / "run" / "metrics.jsonl")
    best = min(rows[1:], key=lambda row: row["loss"])["round"]
    export(tmp_path / "run", tmp_path / "best", Choice(None, round="best"))
    export(tmp_path / "run", tmp_path / "last", Choice(None, round="4"))
    export(tmp_path / "run", tmp_path / "final", Choice(None))
    assert f"after {best} of 4 rounds" in (tmp_path / "best" / "README.md").read_text()
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("last", "final")]
    assert weights[0] == weights[1]
    samples, labels, _ = (test := settings.federation().test).take(torch.arange(len(test)))
    assert isinstance(samples, torch.Tensor)
    assert accuracy_in_a_fresh_process(tmp_path / "best", samples, labels) == pytest.approx(rows[best]["accuracy"])
    with pytest.raises(
        InputError, match=r"kept no round '2': the checkpoints that stayed are of rounds .*4, the best by record.best is"
    ):
        export(tmp_path / "run", tmp_path / "none", Choice(None, round="2"))
