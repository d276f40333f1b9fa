"""What clients uploaded, as the server read it: one file a round, where the experiment asks for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedkd.base.errors import InputError
from fedkd.results.files import write_atomically

if TYPE_CHECKING:
    from torch import Tensor

#: The folder of a run that holds them.
FOLDER = "uploads"
#: Of one exchange, what each client uploaded: name -> what the tensor means, and the tensor.
Tables = Mapping[int, Mapping[str, tuple[str, "Tensor"]]]


def upload_files(path: Path) -> dict[int, Path]:
    """The files of a run directory by round, in order."""
    files = (path / FOLDER).glob("round-*.safetensors")
    by_round = {int(number): file for file in files if (number := file.stem.removeprefix("round-")).isdecimal()}
    return dict(sorted(by_round.items()))


def write_uploads(path: Path, round: int, exchanges: Sequence[Tables]) -> None:
    """Keep the uploads of a round's exchanges: tensors by ``exchange/client/name``, their spaces in the metadata."""
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    spaces: dict[str, str] = {}
    for exchange, uploads in enumerate(exchanges):
        for client, upload in uploads.items():
            for name, (space, tensor) in upload.items():
                key = f"{exchange}/{client}/{name}"
                tensors[key], spaces[key] = tensor.detach().cpu().contiguous().clone(), space
    file = path / FOLDER / f"round-{round:04d}.safetensors"
    file.parent.mkdir(exist_ok=True)
    write_atomically(file, save(tensors, metadata={"spaces": json.dumps(spaces)}))


def read_tables(file: Path) -> Tables:
    """The uploads of a round; of several exchanges, the first that has the name counts.

    Raises InputError for a file that is damaged.
    """
    from safetensors import SafetensorError, safe_open

    found: dict[int, dict[str, tuple[str, Tensor]]] = {}
    try:
        with safe_open(file, "pt") as held:
            spaces = json.loads(held.metadata()["spaces"])
            for key in sorted(held.keys(), key=lambda key: tuple(map(int, key.split("/", 2)[:2]))):
                _, client, name = key.split("/", 2)
                found.setdefault(int(client), {}).setdefault(name, (spaces[key], held.get_tensor(key)))
    except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{file} is damaged ({error}): bring it back from a copy, or delete it") from None
    return dict(sorted(found.items()))
