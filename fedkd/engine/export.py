"""A finished run's net for others: its weights, what it is made of, and a model card that says where it comes from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedkd.base.errors import InputError
from fedkd.base.randomness import seeded
from fedkd.engine.kept_nets import kept_nets
from fedkd.engine.model_card import Card, write_card
from fedkd.experiment.algorithm.device import device_of
from fedkd.experiment.algorithm.net_shares import is_given
from fedkd.experiment.algorithm.server import Server
from fedkd.experiment.experiment import Experiment
from fedkd.knowledge.memory import Memory
from fedkd.nets import ZOO, Net, build_net
from fedkd.results.data import RecordedData
from fedkd.results.files import writing
from fedkd.results.identity import CODE
from fedkd.results.recorded import RecordedRun


@dataclass(frozen=True)
class Choice:
    """Whose net: a client's, or with None the server's or the global one; which, where there are several; after which round,
    or with ``"best"`` the best one; empty: the last.
    """

    client: int | None
    net: str = ""
    round: str = ""

    @property
    def owner(self) -> str:
        """In words."""
        return "the server" if self.client is None else f"client {self.client}"


def export(run: Path, out: Path, choice: Choice) -> None:
    """Write ``model.safetensors``, ``config.json`` and the card, ``README.md``, into a new directory, whole or not at all.

    Raises:
        InputError: the run left no such net, the directory is there, or it cannot be written.
    """
    from safetensors.torch import save_file

    recorded = RecordedRun.read(run)
    if out.exists():
        raise InputError(f"{out} is there already: give a new directory with --out")
    if recorded.data is None:
        raise InputError(f"{run} does not say what its data were: it is of an earlier fedkd; run it again")
    experiment = Experiment.from_toml(run / "experiment.toml")
    if choice.round:
        round, nets = kept_nets(recorded, choice.round, _frozen(experiment))
    else:
        round, nets = recorded.rounds_done, _final(run)
    weights = nets[_name_of(run, nets, choice)]
    config = _config(experiment, recorded.data, choice, weights)
    begun = out.with_name(f".{out.name}.writing")
    with writing(out, InputError):
        shutil.rmtree(begun, ignore_errors=True)
        try:
            begun.mkdir(parents=True)
            save_file({name: tensor.contiguous().clone() for name, tensor in weights.items()}, begun / "model.safetensors")
            (begun / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
            if config["net"] not in ZOO and (run / CODE).is_dir():
                shutil.copytree(run / CODE, begun / CODE)
            write_card(begun / "README.md", Card(recorded, recorded.data, config, choice.client, round, out.name))
            begun.rename(out)
        except BaseException:
            shutil.rmtree(begun, ignore_errors=True)
            raise


def _final(run: Path) -> dict[str, dict[str, Tensor]]:
    """The nets that a finished run left."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    nets: dict[str, dict[str, Tensor]] = {}
    for file in sorted((run / "nets").glob("*.safetensors")):
        try:
            nets[file.stem] = load_file(file)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{file} cannot be read ({error}): bring it back from a copy") from None
    if not nets:
        raise InputError(f"{run} has no final nets: finish the run, `fedkd resume {run}`, or name a kept --round")
    return nets


def _frozen(experiment: Experiment) -> list[Net]:
    """The run's nets of which a part is frozen, which no checkpoint has."""
    if not (functions := experiment.functions()).nets:
        return []
    return Server(experiment, functions, experiment.run_federation, Memory(), device_of(experiment.engine)).frozen_nets()


def _name_of(run: Path, nets: Mapping[str, object], choice: Choice) -> str:
    """The name of the net that is meant. InputError says what is there."""
    mine = f"client-{choice.client}-" if choice.client is not None else "server-"
    named = {name.removeprefix(mine): name for name in nets if name.startswith(mine)}
    if choice.client is None and "global" in nets:
        named["global"] = "global"
    wanted = choice.net or next((name for name in ("main", "global") if name in named), "")
    if not wanted and len(named) == 1:
        return next(iter(named.values()))
    if wanted in named:
        return named[wanted]
    if named:
        raise InputError(f"{run}: {choice.owner} has the nets {', '.join(named)}: choose one with --net")
    raise InputError(f"{run}: {choice.owner} kept no net; the run left {', '.join(nets)}")


def _config(experiment: Experiment, data: RecordedData, choice: Choice, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """All that ``build_net`` and whoever feeds the net must know. ``net`` is empty where no net of the run fits the weights."""
    moments = (data.mean, data.std)
    if data.client_moments and choice.client is not None:
        moments = data.client_moments[choice.client]
    heads = list(dict.fromkeys(name.split(".")[1] for name in weights if name.startswith("heads.")))
    facts: dict[str, Any] = {"shape": data.shape, "class_names": data.classes, "heads": heads or ["classifier"]}
    facts |= {"kind": data.kind, "vocabulary": data.vocabulary, "mean": moments[0], "std": moments[1]}
    name = next((name for name in _candidates(experiment, choice) if _fits(experiment, name, facts, weights)), "")
    return {"net": name, "options": experiment.net_options.get(name, {}), **facts}


def _candidates(experiment: Experiment, choice: Choice) -> list[str]:
    """The names of the run's nets, the likeliest first."""
    own = [experiment.architecture_of(choice.client)] if choice.client is not None else [experiment.server_net]
    return [name for name in dict.fromkeys([*own, experiment.shared_net, *experiment.architectures]) if name]


def _fits(experiment: Experiment, name: str, facts: Mapping[str, Any], weights: Mapping[str, Tensor]) -> bool:
    if is_given(name):  # a function that only the run's script has
        return False
    with torch.device("meta") if name in ZOO else seeded(0):
        built = _built(name, experiment.net_options.get(name, {}), facts)
    held = {key: tuple(tensor.shape) for key, tensor in built.whole_state().items()}
    return held == {key: tuple(tensor.shape) for key, tensor in weights.items()}


def _built(name: str, options: Mapping[str, Any], facts: Mapping[str, Any]) -> Net:
    heads, vocabulary = tuple(facts["heads"]), facts["vocabulary"]
    return build_net(
        name, shape=facts["shape"], classes=len(facts["class_names"]), heads=heads, options=options, vocabulary=vocabulary
    )
