"""Each client its own data: which files a client, and which the server reads, by the [data] section.

Where a folder has a sub-folder ``client/``, each part of that is one client's data, in the order of their names; ``test/`` and
``public/`` beside it, or files such as ``test.npz``, are the server's test set and the public set.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fedkd.base.errors import InputError
from fedkd.base.inputs import each, rows
from fedkd.experiment.algorithm.data_section import Data
from fedkd.experiment.algorithm.loaded import read_source

if TYPE_CHECKING:
    from fedkd.data import Source

CLIENTS, TEST, PUBLIC = "client", "test", "public"


def holds_clients(data: Data) -> bool:
    """Whether there are folders of all clients."""
    return _part(_place(data), CLIENTS) is not None


def has_clients(data: Data) -> bool:
    """Whether the data of all clients are here, as in a simulation."""
    source = None if holds_clients(data) or _is_nothing(data) else read_source(data, held_out=0)
    return holds_clients(data) or (source is not None and source.groups is not None)


def _place(data: Data) -> Path | None:
    """Where the data lie, if that is a path of this machine."""
    if not isinstance(data.source, str) or ":" in data.source or _is_nothing(data):
        return None
    place = Path(data.path or data.source).expanduser()
    return place if place.exists() else None


def _part(place: Path | None, name: str) -> Path | None:
    """The folder or file of this name in a folder, whatever a file's ending."""
    if place is None or not place.is_dir():
        return None
    return place / name if (place / name).is_dir() else next(iter(sorted(place.glob(f"{name}.*"))), None)


def _is_nothing(data: Data) -> bool:
    return data.source == "" and not data.path


def of_client(data: Data, client: int, *, given: bool, simulated: bool) -> Source:
    """A client's data: all that is here, or its part of what is here of all clients.

    Args:
        data: the section, its path that of this node.
        client: its id.
        given: whether the path was given to this node alone.
        simulated: whether the node is one of a simulation, so that what is here is of all clients.

    Raises:
        InputError: data that cannot be loaded, or of which nobody says whose they are.
    """
    from fedkd.data.sources import NAMED

    place = _place(data)
    if folder := _part(place, CLIENTS):
        if given:
            cure = f"give the node its own part as data-path, such as {str(folder)!r} and a name"
            raise InputError(f"data-path {str(place)!r} holds the data of all clients: {cure}")
        return _load(data, _client_places(folder, data.clients)[client])
    if given or not simulated:
        if _is_nothing(data):
            raise InputError("this node has no data: give it data-path in its node config, or client_app(data=...)")
        named = _load(data, place) if data.path and place is not None and data.source not in NAMED else None
        return replace(named or read_source(data, held_out=0), groups=None)
    source = None if _is_nothing(data) else read_source(data, held_out=0)
    if source is None or source.groups is None:
        cure = "put each client's into a folder of its own below client/, or name data.client_column"
        raise InputError(f'data.source: data.partition = "own" in a simulation, and nothing says whose a sample is: {cure}')
    owners = torch.unique(source.groups)
    _check_count(len(owners), data.clients, "its samples are those of")
    mine = (source.groups == owners[client]).nonzero().flatten()
    nothing = rows(source.test_inputs, slice(0, 0))
    return replace(
        source,
        train_inputs=rows(source.train_inputs, mine),
        train_labels=source.train_labels[mine],
        test_inputs=nothing,
        test_labels=source.test_labels[:0],
        groups=None,
    )


def _client_places(folder: Path, clients: int) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    _check_count(len(found), clients, f"{str(folder)!r} holds")
    return found


def _check_count(found: int, clients: int, where: str) -> None:
    if found != clients:
        raise InputError(f"data.clients = {clients}, but {where} {found} clients: set data.clients = {found}")


def of_server(data: Data) -> Source | None:
    """The server's own: splits as they are, or a set without splits as the global test set, whole."""
    place = _place(data)
    if any(_part(place, name) for name in (CLIENTS, TEST, PUBLIC)) and not _part(place, "train"):
        test = _part(place, TEST)
        return _as_test(_load(data, test)) if test else None
    source = None if _is_nothing(data) else read_source(data, held_out=0)
    if source is None or (source.groups is None and len(source.test_labels)):
        return source
    if source.groups is None:
        return _as_test(source)
    return replace(_with_blank_train(source), groups=None)  # its training samples are the clients' of a simulation


def _as_test(source: Source) -> Source:
    moved = replace(source, test_inputs=source.train_inputs, test_labels=source.train_labels)
    return replace(_with_blank_train(moved), groups=None)


def _with_blank_train(source: Source) -> Source:
    blank = each(lambda tensor: torch.zeros(1, *tensor.shape[1:], dtype=tensor.dtype), source.train_inputs)
    return replace(source, train_inputs=blank, train_labels=torch.tensor([-1]), groups=None)


def _load(data: Data, place: Path) -> Source:
    """The set at a place of its own, read as the section says, whole."""
    return read_source(data.model_copy(update={"source": "", "path": str(place)}), held_out=0)


def public_source(data: Data, source: Source | None, *, beside: bool) -> Source | None:
    """The set that public samples are of, read as ``source``, the private one, is; ``beside``: it may be public/ there."""
    from fedkd.data import load_source
    from fedkd.experiment.algorithm.loaded import public_options

    if not data.public:
        return None
    if data.public_source:
        return load_source(
            data.public_source,
            held_out=0,
            **public_options(data, of_images=source.kind.name == "image" if source else bool(data.image_column)),
        )
    if beside and (here := _part(_place(data), PUBLIC)):
        return _load(data, here)
    cure = "name it as data.public_source, and at a node where it lies elsewhere as public-path in its node config"
    raise InputError(f'data.public = {data.public}: with data.partition = "own" it must be a set that all nodes have: {cure}')
