"""A run-config holds names and numbers: whatever field says ``module:name``, nobody imports that module."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from fedkd import Experiment, InputError
from fedkd.app import client_app, server_app
from fedkd.base.errors import RunFailed
from fedkd.data import Source
from fedkd.experiment.algorithm.sections import SECTIONS
from fedkd.experiment.registry import strategies
from fedkd.grids import run_app

NAME = "evil_module:thing"
TEXTS = (NAME, f"mlp,{NAME}", f"{NAME}:0.5,mlp:0.5", f"[{NAME}]")


@pytest.fixture(autouse=True)
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module in the current directory that leaves a trace when it is imported."""
    (tmp_path / "evil_module.py").write_text("import pathlib\npathlib.Path('imported').touch()\nthing = dict\n")
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "imported").exists()
    assert "evil_module" not in sys.modules


def small(strategy: str) -> dict[str, Any]:
    """The flat keys of a short run of this strategy, if it is one that needs nothing special."""
    flat: dict[str, Any] = {"rounds": 1, "nets": "mlp", "data.clients": 2, "data.train_limit": 60, "strategy.name": strategy}
    flat |= {"data.partition": "shared"} if strategies()[strategy].needs.shared_data else {"data.partition": "iid"}
    flat |= {"data.public": 10} if strategies()[strategy].needs.public else {}
    return flat | ({"data.validation": 10} if strategies()[strategy].needs.validation else {})


def holds_text(value: object) -> bool:
    return isinstance(value, str | dict | tuple | list) or value is None or value is MISSING


def keys_of_sections() -> list[str]:
    """Every key of the experiment file that is no number, nested ones too; and some that belong to nobody."""
    found = []
    for name in Experiment.model_fields:
        if name in SECTIONS or name == "strategy":
            continue
        found.append(name)
    for section, model in SECTIONS.items():
        defaults: BaseModel = model()
        found += [f"{section}.{name}" for name in model.model_fields if holds_text(getattr(defaults, name))]
    return [
        *found,
        "net_options.mlp.hidden",
        "net_options.evil_module:thing.width",
        "data.alpha",
        "data.partition_by",
        "loss",
        "code",
    ]


def keys_of_strategies() -> list[tuple[str, str]]:
    """Every field of every strategy that may hold text, and options below those that hold tables."""
    found = []
    for name, cls in strategies().items():
        for field in fields(cls):
            default = field.default if field.default is not MISSING else field.default_factory  # type: ignore[misc]
            value = default() if callable(default) else default
            if holds_text(value):
                found.append((name, field.name))
                found += [(name, f"{field.name}.{key}") for key in ("loss", "net", "name")] if isinstance(value, dict) else []
    return found


def attempt(config: dict[str, Any]) -> None:
    """What a process does with a config that came from elsewhere: read it, and run the app on it."""
    try:
        Experiment.from_flat(config)
        run_app(server_app(), client_app(), num_supernodes=2, run_config=config)
    except (InputError, RunFailed, ValueError, TypeError):
        pass  # refused: what counts is that nothing was imported


@pytest.mark.parametrize("key", keys_of_sections())
def test_no_key_of_the_experiment_leads_to_code(key: str) -> None:
    for text in TEXTS:
        attempt(small("fedavg") | {key: text})


def test_views_do_not_where_they_are_used() -> None:
    config = small("mean_teacher") | {"data.views": NAME}
    attempt(config)
    with pytest.raises(InputError, match="a config may not name code: pass code= to the app for 'evil_module:thing'"):
        run_app(server_app(), client_app(), num_supernodes=2, run_config=config)


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "field"), keys_of_strategies())
def test_no_field_of_a_strategy_leads_to_code(strategy: str, field: str) -> None:
    for text in TEXTS:
        attempt(small(strategy) | {f"strategy.{field}": text})


@pytest.mark.parametrize("strategy", [NAME, "evil_module", "evil_module.thing"])
def test_no_name_of_a_strategy_does(strategy: str) -> None:
    attempt({**small("fedavg"), "strategy.name": strategy})


def test_a_directory_that_a_config_names_does_not_either(tmp_path: Path) -> None:
    """A finished run whose own description names code: its nets teach, and its code is not looked at."""
    run = tmp_path / "run"
    (run / "nets").mkdir(parents=True)
    (run / "experiment.toml").write_text(
        f'rounds = 1\nnets = "{NAME}"\n[strategy]\nname = "{NAME}"\n[data]\nsource = "{NAME}"\n'
    )
    (run / "nets" / "global.safetensors").write_bytes(b"")
    for target in ("mean_probs", "unify"):
        attempt(small("multi_teacher") | {"strategy.teachers": str(run), "strategy.target": target})
    attempt(small("fedavg") | {"out": str(run), "resume": True})


def test_code_that_the_app_was_given_is_used() -> None:
    """The other way round: what is refused from a message works where the app's owner gives it."""

    def data() -> Source:
        import torch

        images = torch.arange(40 * 16, dtype=torch.int64).to(torch.uint8).view(40, 1, 4, 4)
        return Source("mine", images, torch.arange(40) % 2, images[:4], torch.arange(4) % 2, ("even", "odd"))

    config = small("fedavg") | {"data.source": NAME, "data.train_limit": 0}
    run_app(server_app(data=data), client_app(data=data), num_supernodes=2, run_config=config)
