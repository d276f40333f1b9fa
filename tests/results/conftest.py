from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from run_rows import insects

from fedkd.results import RunDirectory
from fedkd.results.data import RecordedData
from fedkd.results.identity import Identity


def description(strategy: str, seed: int, rounds: int, **data: object) -> str:
    extra = "".join(f"{key} = {value!r}\n" for key, value in data.items())
    head = f'rounds = {rounds}\nseed = {seed}\nnets = "cnn"\n'
    return f'{head}[strategy]\nname = "{strategy}"\n[data]\nsource = "digits"\nclients = 2\n{extra}'


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunDirectory]:
    """Makes a run directory under ``tmp_path`` with the given rows; ``finish`` writes figures and report too."""
    federation = insects()

    def make(
        name: str = "run",
        *,
        strategy: str = "fedx",
        seed: int = 0,
        rows: Sequence[Mapping[str, Any]] = (),
        clients: Sequence[Mapping[str, Any]] = (),
        finish: bool = False,
        **data: object,
    ) -> RunDirectory:
        rounds = len(rows) - 1 if rows else 2
        text = description(strategy, seed, rounds, **data)
        identity = Identity(text, RecordedData.of(federation), {})
        directory = RunDirectory.create(tmp_path / name, identity)
        for row in rows:
            directory.append(row, clients)
        if finish:
            directory.draw_partition(identity.data, federation.partition_table())
            directory.finish([("global", {"weight": torch.zeros(2, 3)})])
        return directory

    return make
