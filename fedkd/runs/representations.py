"""The representations that a run kept for its picture: one file a round."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

#: The folder of a run that holds them.
FOLDER = "representations"


@dataclass(frozen=True, eq=False)
class Representations:
    """Some test images as the encoder of one round saw them."""

    features: NDArray[np.float64]  # (N, D)
    labels: NDArray[np.int64]  # (N,)
    classes: tuple[str, ...]


def representation_files(path: Path) -> dict[int, Path]:
    """The files of a run directory by round, in order."""
    found = {int(file.stem.removeprefix("round-")): file for file in (path / FOLDER).glob("round-*.safetensors")}
    return dict(sorted(found.items()))


def read_representations(file: Path) -> Representations:
    """What ``RunDirectory.save_representations`` wrote."""
    from safetensors import safe_open

    with safe_open(file, "numpy") as held:
        features, labels = (held.get_tensor(name) for name in ("features", "labels"))
        classes = json.loads(held.metadata()["classes"])
    return Representations(features.astype(np.float64), labels, tuple(classes))
