"""The nets that a run left on disk, built again as nets of this run: the final ones, or those of a round that it kept.

Which architecture each one has shows from its weights. Of a net with branches the first one teaches, of one with exits the net
itself, of a student and its moving average the average. ``DIR@7`` are the nets after round 7, ``DIR@best`` those of the best
round, as far as their checkpoints stayed (``record.checkpoints``, ``record.best``).
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fedkd.base.errors import InputError, under
from fedkd.base.inputs import Shape
from fedkd.base.randomness import seeded
from fedkd.engine.kept_nets import kept_nets
from fedkd.experiment.algorithm.net_shares import is_given, read_nets
from fedkd.experiment.algorithm.server import Server
from fedkd.experiment.registry import load as strategy_class
from fedkd.methods.students.foreign_nets import columns_of, origin, with_our_classes, with_our_inputs
from fedkd.nets import ZOO, Branched, Net, build_net
from fedkd.results.data import RecordedData, class_names
from fedkd.results.recorded import RecordedRun

#: A user's nets, by the names that ``nets`` gives them.
NetFunctions = Mapping[str, Callable[..., nn.Module]]
#: How the names of tensors begin that a strategy broadcasts beside its net: of its teachers, and of a generator.
BESIDE = ("teacher/", "generator/")


def load_nets(server: Server, run: str, *, some_classes: bool = False) -> dict[str, Net]:
    """The nets of a run by name, frozen, on the server's device: the final ones, or with ``DIR@ROUND`` those of a kept round.

    They take samples as this run has them, and give logits in the order of this run's classes, whatever normalisation and
    order they learned with. With ``some_classes`` they need not know them all: ``known_classes`` says which they know.

    Raises:
        InputError: it left no nets, or its classes or samples are not those of this run.
    """
    source, data = server.federation.source, origin(run_and_round(run)[0], server.federation.source)
    ours = class_names(source)
    theirs = data.classes if data else ours
    with under(run):
        columns = columns_of(theirs, ours, some=some_classes)
    nets = read_nets_of(run, shape=source.shape, classes=len(theirs), vocabulary=source.vocabulary, functions=server.user_nets)
    if theirs != ours:
        nets = {name: with_our_classes(net, columns) for name, net in nets.items()}
    moments = server.federation.examples.moments
    _check_normalised(run, data, len(moments.mean))
    if data and (data.mean, data.std) != (tuple(moments.mean.tolist()), tuple(moments.std.tolist())):
        both = (torch.tensor(data.mean), torch.tensor(data.std)), moments
        nets = {name: with_our_inputs(net, *both, images=source.kind.name == "image") for name, net in nets.items()}
    return {name: net.to(server.device).eval() for name, net in nets.items()}


def _check_normalised(run: str, data: RecordedData | None, ours: int) -> None:
    """InputError where one of two runs normalised its inputs and the other did not, or each client by its own moments."""
    if data and (data.normalise == "client" or len(data.mean) != ours):
        raise InputError(f"{run} has data.normalise = {data.normalise!r}, which its nets alone can read: take another run")


def known_classes(server: Server, run: str) -> Tensor:
    """Which classes of ours each net of a finished run was trained on, in the order of ``load_nets``. (K, C) bool"""
    data = origin(run_and_round(run)[0], server.federation.source)
    if data is None:
        raise InputError(f"{run} does not say which classes its nets know: run it again, or take another target")
    columns = columns_of(data.classes, class_names(server.federation.source), some=True)
    counts = F.pad(torch.tensor(data.client_classes), (0, 1))[:, columns]  # (clients, C), 0 for what -1 points at
    owners = {name: name.partition("-")[2].partition("-")[0] for name in load_nets(server, run, some_classes=True)}
    trained = {name: counts[int(id)] if id.isdigit() else counts.sum(0) for name, id in owners.items()}  # client-3-main
    if nothing := next((name for name, of_net in trained.items() if not of_net.any()), ""):
        raise InputError(f"{run}: {nothing} was trained on none of this run's classes: take another run")
    return torch.stack([*trained.values()]) > 0


def run_and_round(run: str) -> tuple[str, str]:
    """The directory, and the round that is named behind it; empty for the final nets.

    >>> run_and_round("runs/a"), run_and_round("runs/a@best")
    (('runs/a', ''), ('runs/a', 'best'))
    """
    path, at, round = run.rpartition("@")
    return (path, round) if at and not Path(run).exists() else (run, "")  # a directory may be called a@b


def read_nets_of(
    run: str | Path,
    *,
    shape: Shape,
    classes: int,
    vocabulary: int = 0,
    functions: NetFunctions = MappingProxyType({}),
) -> dict[str, Net]:
    """The nets of a run by name, in eval mode, frozen: its clients' own, else the global one, else the server's.

    Args:
        run: the directory that ``fedkd run --out`` wrote, of a finished run; or such a directory, @, and a kept round.
        shape: of a sample that the nets are for, such as (C, H, W) of an image.
        classes: how many.
        vocabulary: of tokens: how many ids there are.
        functions: nets of the user's own, by the names that the run's ``nets`` gave them.

    Returns:
        ``client-0-main``, ``client-1-main`` ... in order of client id; or ``global``; or ``server-...``, in order of name.

    Raises:
        InputError: no run, not a finished one, a round that it did not keep, one whose nets are for other samples or classes,
            have no classifier, or are of unknown architectures.

    >>> read_nets_of("nowhere", shape=(1, 8, 8), classes=10)
    Traceback (most recent call last):
    fedkd.base.errors.InputError: nowhere holds no run (it has no experiment.toml): give the directory of a finished run
    """
    directory, round = run_and_round(str(run))
    path = Path(directory)
    if not (path / "experiment.toml").is_file():
        raise InputError(f"{path} holds no run (it has no experiment.toml): give the directory of a finished run")
    try:
        tables = tomllib.loads((path / "experiment.toml").read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path / 'experiment.toml'} cannot be read ({error}): take another run") from None
    if round:
        kept = kept_nets(RecordedRun.read(path), round)[1]
        weights = {name: kept[name] for name in _teaching(kept)}
    else:
        files = {file.stem: file for file in (path / "nets").glob("*.safetensors")}
        weights = {name: _read(files[name]) for name in _teaching(files)}
    if not weights:
        raise InputError(f"{path} has no nets of its clients, and none of its server: finish that run, or take another")
    if "global" in weights:
        weights["global"] = _teaching_part(weights["global"], tables)
    options = {name: tables.get("net_options", {}).get(name, {}) for name in _architectures(tables)}
    build = partial(build_net, shape=shape, classes=classes, vocabulary=vocabulary)
    before, after = (f"{run}: ", "") if round else (f"{path / 'nets'}/", ".safetensors")
    return {name: _rebuilt(f"{before}{name}{after}", state, options, build, functions) for name, state in weights.items()}


def _teaching(names: Iterable[str]) -> list[str]:
    """The nets that speak for the run: clients' own before a common one, and that before the server's."""
    names = sorted(names)
    own = [name for name in names if name.startswith("client-") and name.endswith("-main")]
    by_id = sorted(own, key=lambda name: int(name.split("-")[1]))
    common = [name for name in names if name == "global"]
    return by_id or common or [name for name in names if name.startswith("server-")]


def _teaching_part(weights: Mapping[str, Tensor], tables: Mapping[str, Any]) -> dict[str, Tensor]:
    """Of what the run's strategy broadcasts, the weights of the net that can teach others."""
    try:
        place = strategy_class(str(tables.get("strategy", {}).get("name", ""))).teaches
    except InputError:  # a user's, which is not at hand
        place = ""
    of_net = {name: tensor for name, tensor in weights.items() if not name.startswith(BESIDE)}
    return {name.removeprefix(place): tensor for name, tensor in of_net.items() if name.startswith(place)}


def _read(file: Path) -> dict[str, Tensor]:
    try:
        weights: dict[str, Tensor] = load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file} cannot be read ({error}): take the nets of another run") from None
    return weights


def _architectures(tables: Mapping[str, Any]) -> list[str]:
    nets = read_nets(tables.get("nets", "cnn"))
    named = [*(nets if isinstance(nets, Mapping) else [str(nets)]), tables.get("server_net", ""), tables.get("shared_net", "")]
    return [name for name in dict.fromkeys(named) if name]


def _rebuilt(
    name: str,
    weights: Mapping[str, Tensor],
    options: Mapping[str, Mapping[str, Any]],
    build: partial[Net],
    functions: NetFunctions,
) -> Net:
    """The net of that one of the run's architectures whose tensors have these names and shapes."""
    heads = _second_parts(weights, "heads")
    branches = len(_second_parts(weights, "classifiers"))
    if heads and "classifier" not in heads:
        raise InputError(f"{name} is a net without a classifier (its heads are {', '.join(heads)}): take another run")
    for kind in options:
        if (":" in kind or is_given(kind)) and kind not in functions:
            raise InputError(f"{name} may be a {kind!r}: name that net in nets or server_net too, so that it can be built")
        made = partial(build, functions.get(kind, kind), heads=("classifier",) if branches else heads, options=options[kind])
        with torch.device("meta") if kind in ZOO and kind not in functions else seeded(0):
            module, _ = _built(made, branches)
            fits = _shapes(module.whole_state() if isinstance(module, Net) else module.state_dict()) == _shapes(weights)
        if fits:
            with seeded(0):  # what no file holds, such as a user's buffers that are not persistent, is built too
                module, net = _built(made, branches)
            module.load_state_dict(weights)
            return net.eval().requires_grad_(False)
    known, shape, classes = ", ".join(options), build.keywords["shape"], build.keywords["classes"]
    raise InputError(f"{name} fits none of its run's nets ({known}) for samples {shape} in {classes} classes: take another run")


def _built(build: Callable[[], Net], branches: int) -> tuple[nn.Module, Net]:
    """What the weights are of, a net or one with branches, and the net that teaches: trunk and first branch are its modules."""
    nets = [build() for _ in range(max(1, branches))]
    return Branched(nets) if branches else nets[0], nets[0]


def _second_parts(names: Iterable[str], first: str) -> tuple[str, ...]:
    """Of names such as ``heads.classifier.weight`` the second parts, each once."""
    return tuple(dict.fromkeys(name.split(".")[1] for name in names if name.startswith(f"{first}.")))


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
