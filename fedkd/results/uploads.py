"""What clients uploaded, as the server read it, and what it broadcast: one file a round, where the experiment asks for it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedkd.base.errors import InputError
from fedkd.results.files import write_atomically

if TYPE_CHECKING:
    from torch import Tensor

#: The folder of a run that holds them.
FOLDER = "uploads"
#: In the place of a client's id: what was broadcast to all; to one of them, with its id behind a line.
BROADCAST = "broadcast"
#: What each client uploaded: name -> what the tensor means, and the tensor.
Tables = Mapping[int, Mapping[str, tuple[str, "Tensor"]]]


@dataclass(frozen=True)
class KeptMessage:
    """An upload, or a broadcast."""

    tensors: Mapping[str, tuple[str, Tensor]]  # name -> what it means, and the tensor
    header: Mapping[str, str | int | float]
    weight: float


@dataclass(frozen=True)
class KeptExchange:
    """The uploads that the server worked with, by client id, and what it broadcast then: to all, or by client id."""

    uploads: Mapping[int, KeptMessage]
    common: KeptMessage | None
    personal: Mapping[int, KeptMessage]


def upload_files(path: Path) -> dict[int, Path]:
    """The files of a run directory by round, in order."""
    files = (path / FOLDER).glob("round-*.safetensors")
    by_round = {int(number): file for file in files if (number := file.stem.removeprefix("round-")).isdecimal()}
    return dict(sorted(by_round.items()))


def write_uploads(path: Path, round: int, exchanges: Sequence[KeptExchange]) -> None:
    """Keep a round's exchanges: tensors by ``exchange/sender/name``; their spaces and all other facts in the metadata."""
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    spaces: dict[str, str] = {}
    facts: dict[str, dict[str, Any]] = {}
    for exchange, kept in enumerate(exchanges):
        for sender, message in _by_sender(kept):
            facts[f"{exchange}/{sender}"] = {"weight": message.weight, "header": dict(message.header)}
            for name, (space, tensor) in message.tensors.items():
                key = f"{exchange}/{sender}/{name}"
                tensors[key], spaces[key] = tensor.detach().cpu().contiguous().clone(), space
    file = path / FOLDER / f"round-{round:04d}.safetensors"
    file.parent.mkdir(exist_ok=True)
    kept_beside = json.dumps({"spaces": spaces, "facts": facts})  # one entry: safetensors writes several in any order
    write_atomically(file, save(tensors, metadata={"kept": kept_beside}))


def _by_sender(kept: KeptExchange) -> Iterator[tuple[str, KeptMessage]]:
    yield from ((str(client), upload) for client, upload in kept.uploads.items())
    if kept.common is not None:
        yield BROADCAST, kept.common
    yield from ((f"{BROADCAST}-{client}", broadcast) for client, broadcast in kept.personal.items())


def read_exchanges(file: Path) -> list[KeptExchange]:
    """A round's exchanges, in order.

    Raises InputError for a file that is damaged, or of an earlier fedkd, which kept neither weights nor broadcasts.
    """
    with _opened(file) as held:
        if "kept" not in held.metadata():
            raise InputError(f"{file} is of an earlier fedkd, which kept no broadcasts: run the experiment again")
        spaces, facts = (json.loads(held.metadata()["kept"])[name] for name in ("spaces", "facts"))
        named: dict[str, dict[str, tuple[str, Tensor]]] = {key: {} for key in facts}
        for key, space in spaces.items():  # in the order in which they were uploaded
            exchange, sender, name = key.split("/", 2)
            named[f"{exchange}/{sender}"][name] = (space, held.get_tensor(key))
        messages = {key: KeptMessage(named[key], each["header"], each["weight"]) for key, each in facts.items()}
        return [_exchange(messages, number) for number in range(1 + max(int(key.partition("/")[0]) for key in facts))]


def _exchange(messages: Mapping[str, KeptMessage], number: int) -> KeptExchange:
    of_it = {key.partition("/")[2]: each for key, each in messages.items() if key.startswith(f"{number}/")}
    personal = {sender.removeprefix(f"{BROADCAST}-"): each for sender, each in of_it.items() if "-" in sender}
    return KeptExchange(
        {int(sender): each for sender, each in of_it.items() if sender.isdecimal()},
        of_it.get(BROADCAST),
        {int(client): each for client, each in personal.items()},
    )


def read_tables(file: Path) -> Tables:
    """The uploads of a round; of several exchanges, the first that has the name counts.

    Raises InputError for a file that is damaged.
    """
    found: dict[int, dict[str, tuple[str, Tensor]]] = {}
    with _opened(file) as held:
        beside = held.metadata()  # an earlier fedkd kept nothing but spaces
        spaces = json.loads(beside["kept"])["spaces"] if "kept" in beside else json.loads(beside["spaces"])
        of_clients = [key for key in spaces if key.split("/", 2)[1].isdecimal()]
        for key in sorted(of_clients, key=lambda key: tuple(map(int, key.split("/", 2)[:2]))):
            _, client, name = key.split("/", 2)
            found.setdefault(int(client), {}).setdefault(name, (spaces[key], held.get_tensor(key)))
    return dict(sorted(found.items()))


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as held:
            yield held
    except InputError:
        raise
    except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{file} is damaged ({error}): bring it back from a copy, or delete it") from None
