"""The nets that a finished run left on disk, built again as nets of this run.

Which architecture each one has shows from its weights.
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
from fedkd.experiment.algorithm.net_shares import is_given, read_nets
from fedkd.experiment.algorithm.server import Server
from fedkd.methods.students.foreign_nets import columns_of, origin, with_our_classes, with_our_inputs
from fedkd.nets import ZOO, Net, build_net
from fedkd.results.data import RecordedData, class_names

#: A user's nets, by the names that ``nets`` gives them.
NetFunctions = Mapping[str, Callable[..., nn.Module]]


def load_nets(server: Server, run: str, *, some_classes: bool = False) -> dict[str, Net]:
    """The nets of a finished run by name, frozen, on the server's device.

    They take samples as this run has them, and give logits in the order of this run's classes, whatever normalisation and
    order they learned with. With ``some_classes`` they need not know them all: ``known_classes`` says which they know.

    Raises:
        InputError: it left no nets, or its classes or samples are not those of this run.
    """
    source, data = server.federation.source, origin(run, server.federation.source)
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
    data = origin(run, server.federation.source)
    if data is None:
        raise InputError(f"{run} does not say which classes its nets know: run it again, or take another target")
    columns = columns_of(data.classes, class_names(server.federation.source), some=True)
    counts = F.pad(torch.tensor(data.client_classes), (0, 1))[:, columns]  # (clients, C), 0 for what -1 points at
    owners = {name: name.partition("-")[2].partition("-")[0] for name in load_nets(server, run, some_classes=True)}
    trained = {name: counts[int(id)] if id.isdigit() else counts.sum(0) for name, id in owners.items()}  # client-3-main
    if nothing := next((name for name, of_net in trained.items() if not of_net.any()), ""):
        raise InputError(f"{run}: {nothing} was trained on none of this run's classes: take another run")
    return torch.stack([*trained.values()]) > 0


def read_nets_of(
    path: str | Path,
    *,
    shape: Shape,
    classes: int,
    vocabulary: int = 0,
    functions:
    #: A user's nets, by the names that ``nets`` gives them.
    NetFunctions = MappingProxyType({}),
) -> dict[str, Net]:
    """The nets of a finished run by name, in eval mode, frozen: its clients' own, else the global one, else the server's.

    Args:
        path: the directory that ``fedkd run --out`` wrote.
        shape: of a sample that the nets are for, such as (C, H, W) of an image.
        classes: how many.
        vocabulary: of tokens: how many ids there are.
        functions: nets of the user's own, by the names that the run's ``nets`` gave them.

    Returns:
        ``client-0-main``, ``client-1-main`` ... in order of client id; or ``global``; or ``server-...``, in order of name.

    Raises:
        InputError: no run, not a finished one, one whose nets are for other samples or classes, have no classifier, or are of
            unknown architectures.

    >>> read_nets_of("nowhere", shape=(1, 8, 8), classes=10)
    Traceback (most recent call last):
    fedkd.base.errors.InputError: nowhere holds no run (it has no experiment.toml): give the directory of a finished run
    """
    path = Path(path)
    if not (path / "experiment.toml").is_file():
        raise InputError(f"{path} holds no run (it has no experiment.toml): give the directory of a finished run")
    try:
        tables = tomllib.loads((path / "experiment.toml").read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path / 'experiment.toml'} cannot be read ({error}): take another run") from None
    files = _teaching((path / "nets").glob("*.safetensors"))
    if not files:
        raise InputError(f"{path} has no nets of its clients, and none of its server: finish that run, or take another")
    options = {name: tables.get("net_options", {}).get(name, {}) for name in _architectures(tables)}
    return {file.stem: _rebuilt(file, options, shape, classes, vocabulary, functions) for file in files}


def _teaching(files: Iterable[Path]) -> list[Path]:
    """The files of the nets that speak for the run: clients' own before a common one, and that before the server's."""
    files = sorted(files)
    own = [file for file in files if file.stem.startswith("client-") and file.stem.endswith("-main")]
    by_id = sorted(own, key=lambda file: int(file.stem.split("-")[1]))
    common = [file for file in files if file.stem == "global"]
    return by_id or common or [file for file in files if file.stem.startswith("server-")]


def _architectures(tables: Mapping[str, Any]) -> list[str]:
    nets = read_nets(tables.get("nets", "cnn"))
    named = [*(nets if isinstance(nets, Mapping) else [str(nets)]), tables.get("server_net", ""), tables.get("shared_net", "")]
    return [name for name in dict.fromkeys(named) if name]


def _rebuilt(
    file: Path,
    options: Mapping[str, Mapping[str, Any]],
    shape: Shape,
    classes: int,
    vocabulary: int,
    functions: NetFunctions,
) -> Net:
    """The net of that one of the run's architectures whose tensors have these names and shapes."""
    try:
        weights = load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file} cannot be read ({error}): take the nets of another run") from None
    heads = tuple(dict.fromkeys(name.split(".")[1] for name in weights if name.startswith("heads.")))
    if heads and "classifier" not in heads:
        raise InputError(f"{file} is a net without a classifier (its heads are {', '.join(heads)}): take another run")
    for name in options:
        if (":" in name or is_given(name)) and name not in functions:
            raise InputError(f"{file} may be a {name!r}: name that net in nets or server_net too, so that it can be built")
        build = partial(
            build_net,
            functions.get(name, name),
            shape=shape,
            classes=classes,
            heads=heads,
            options=options[name],
            vocabulary=vocabulary,
        )
        with torch.device("meta") if name in ZOO and name not in functions else seeded(0):
            fits = _shapes(build().whole_state()) == _shapes(weights)
        if fits:
            with seeded(0):  # what no file holds, such as a user's buffers that are not persistent, is built too
                net = build()
            net.load_state_dict(weights)
            return net.eval().requires_grad_(False)
    known = ", ".join(options)
    raise InputError(f"{file} fits none of its run's nets ({known}) for samples {shape} in {classes} classes: take another run")


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
