"""The representations that a run kept for its picture: one file a round."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedkd.base.errors import InputError

#: The folder of a run that holds them.
FOLDER = "representations"


@dataclass(frozen=True, eq=False)
class Representations:
    """Some test samples as the encoder of one round saw them."""

    features: NDArray[np.float64]  # (N, D)
    labels: NDArray[np.int64]  # (N,)
    classes: tuple[str, ...]


def representation_files(path: Path) -> dict[int, Path]:
    """The files of a run directory by round, in order."""
    files = (path / FOLDER).glob("round-*.safetensors")
    by_round = {int(number): file for file in files if (number := file.stem.removeprefix("round-")).isdecimal()}
    return dict(sorted(by_round.items()))


def read_representations(file: Path) -> Representations:
    """What ``RunDirectory.save_representations`` wrote. Raises InputError for a file that is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "numpy") as held:
            features, labels = (held.get_tensor(name) for name in ("features", "labels"))
            classes = json.loads(held.metadata()["classes"])
    except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{file} is damaged ({error}): delete it, and its round is not drawn") from None
    return Representations(features.astype(np.float64), labels, tuple(classes))
