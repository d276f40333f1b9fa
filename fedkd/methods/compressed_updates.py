"""A net that server and clients all hold, brought up to date by low-rank parts of its updates instead of its weights.

Parts are what ``fedkd.knowledge.codecs.lowrank.compress`` makes: a tensor whole under its name, or as three factors. Who is
known to hold the net as it was is sent the update, everybody else all weights; both ends compute on the CPU, from equal bits
to equal bits. Lossy codecs may take something of an update: the server moves by what clients read of it. All weights they
leave alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedkd.base.errors import InputError
from fedkd.experiment.algorithm.server import Server
from fedkd.experiment.experiment import Experiment
from fedkd.knowledge import codecs
from fedkd.knowledge.codecs.lowrank import FACTORS, decompress
from fedkd.knowledge.knowledge import NEVER_NEGATIVE, Knowledge, TensorSpec, UpTo
from fedkd.knowledge.memory import Memory
from fedkd.nets import Net, load

#: No update of a net that trains is larger; factors within the guard's bounds may multiply to more.
LARGEST = 1e6
#: A variance that an update brings down to 0 may miss it by so much: less than what BatchNorm adds to it.
ROUNDING = 1e-6


def check_downlink(names: Sequence[str], experiment: Experiment) -> None:
    """Raise InputError for a chain of which clients read different things: the net would not be the same at all of them."""
    if not codecs.settled(codecs.chain(names, "downlink")):
        name = type(experiment.strategy).__name__
        raise InputError(f'downlink: {name} needs equal nets at all clients: put "delta" behind the lossy codecs')


def parts_schema(net: Net) -> dict[str, TensorSpec]:
    """What a compressed update of this net's weights holds: of a tensor that may become smaller in factors, either form.

    A rank r makes it smaller as long as r (m + n + 1) < m n, for a tensor flattened to (m, n).
    """
    schema = {}
    for name, tensor in net.state_dict().items():
        m, n = (tensor.shape[0], math.prod(tensor.shape[1:])) if tensor.ndim > 1 and tensor.is_floating_point() else (0, 0)
        most = max(0, (m * n - 1) // (m + n + 1))
        schema[name] = TensorSpec(tuple(tensor.shape), tensor.dtype, "weights", optional=most > 0)
        if most:
            rank = UpTo(f"{name} rank", most)
            shapes: list[tuple[int | UpTo, ...]] = [(m, rank), (rank,), (rank, n)]
            for suffix, shape in zip(FACTORS, shapes, strict=True):
                schema[name + suffix] = TensorSpec(shape, tensor.dtype, "weights", optional=True)
    return schema


def difference(after: Tensor, before: Tensor) -> Tensor:
    """``after - before``, and 0 where they are equal: a mask of minus infinities has not changed."""
    return torch.where(after == before, torch.zeros_like(after), after - before)


def update_from(parts: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The update of these weights that the parts stand for. Raises ValueError where they are no sane update of them."""
    update = decompress(parts, {name: tuple(tensor.shape) for name, tensor in weights.items()})
    for name, tensor in update.items():
        if tensor.numel() and not float(tensor.abs().max()) <= LARGEST:
            raise ValueError(f"the update of {name} holds {float(tensor.abs().max()):g}, beyond {LARGEST:g}")
        if name.endswith(NEVER_NEGATIVE) and float((weights[name].cpu() + tensor.cpu()).min()) < -ROUNDING:
            raise ValueError(f"the update of {name} makes it negative")
    return update


def advanced(weights: Mapping[str, Tensor], parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights after the update that the parts stand for, on the CPU."""
    held = {name: tensor.cpu() for name, tensor in weights.items()}
    return {name: held[name] + change for name, change in update_from(parts, held).items()}


def all_weights(net: Net, version: int = 0) -> Knowledge:
    """The whole net to the bit, as of the round ``version``."""
    return Knowledge.of("weights", net.state_dict(), header={"version": version, codecs.EXACT: 1})


def advance(server: Server, net: Net, parts: Mapping[str, Tensor], uploads: Mapping[int, Knowledge]) -> dict[int, Knowledge]:
    """Bring the server's net up to date, by what clients will read, and say what each client is to be sent.

    A client holds the net as it was if its upload answers this very round: it was made from it, and it was accepted.
    """
    update = Knowledge.of("weights", parts, header={"version": server.round, "after": int(server.memory.get("version", 0))})
    load(net, advanced(net.state_dict(), server.as_received(update).tensors))
    server.memory["version"] = server.round
    whole = all_weights(net, server.round)
    holds = {client for client, upload in uploads.items() if upload.header.get("round") == server.round}
    return {client: update if client in holds else whole for client in server.clients}


def catch_up(memory: Memory, broadcast: Knowledge) -> dict[str, Tensor]:
    """The net as everybody has it now, at a client that is told all of it or an update; it is kept in the client's memory.

    An update that is heard twice, as after a round that lost all uploads, counts once.

    Raises:
        ValueError: the update is of another version than the one held.
    """
    version, held = int(broadcast.header["version"]), memory.get("version")
    if "after" not in broadcast.header:
        weights = dict(broadcast.tensors)
    elif held == version:
        weights = memory.under("synchronised/")
    elif held == broadcast.header["after"]:
        weights = advanced(memory.under("synchronised/"), broadcast.tensors)
    else:
        raise ValueError(f"an update from version {broadcast.header['after']} to {version}, but this client holds {held}")
    memory["version"] = version
    memory.store("synchronised/", weights)
    return weights
