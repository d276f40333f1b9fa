"""Large columns of lists in a saved data set are read by rows, and are to the bit what they are when read whole."""

import pickle
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from torch import Tensor

from fedkd import Experiment, InputError, simulate
from fedkd.base.inputs import Inputs
from fedkd.data import Source
from fedkd.data.columns import mapped
from fedkd.data.columns.mapped import MappedColumns
from fedkd.data.sources import _load, load_source

ROWS = 2100  # of which the library writes a thousand a batch
RNG = np.random.default_rng(0)
COLUMNS: dict[str, dict[str, tuple[Any, Any]]] = {
    "pixels": {"image": (RNG.integers(0, 256, (ROWS, 4, 4, 3)), datasets.Array3D((4, 4, 3), "uint8"))},
    "signal of rounded numbers": {"x": (RNG.random((ROWS, 5, 2)), datasets.Array2D((5, 2), "float64"))},
    "signals beside each other": {
        "x": (RNG.random((ROWS, 5)), datasets.Sequence(datasets.Value("float32"), length=5)),
        "y": (RNG.integers(0, 9, (ROWS, 5)), datasets.Sequence(datasets.Value("int32"))),
    },
    "tokens": {
        "input_ids": (RNG.integers(0, 99, (ROWS, 6)), datasets.Sequence(datasets.Value("int32"))),
        "attention_mask": (np.ones((ROWS, 6)), datasets.Sequence(datasets.Value("int8"))),
    },
}


def saved(folder: Path, columns: dict[str, tuple[Any, Any]], *, test: bool) -> str:
    features = {name: feature for name, (_, feature) in columns.items()} | {"label": datasets.Value("int64")}
    held = {name: list(values) for name, (values, _) in columns.items()} | {"label": np.arange(ROWS) % 2}
    split = datasets.Dataset.from_dict(held, features=datasets.Features(features))
    (datasets.DatasetDict(train=split, test=split.select(range(20))) if test else split).save_to_disk(folder / "saved")
    return str(folder / "saved")


def read(path: str, monkeypatch: pytest.MonkeyPatch, large: int) -> Source:
    monkeypatch.setattr(mapped, "LARGE", large)
    _load.cache_clear()
    return load_source(path, label_column="label")


def tensor_of(inputs: Inputs) -> Tensor:
    return inputs if isinstance(inputs, Tensor) else inputs["input_ids"]


@pytest.mark.parametrize("test", [True, False], ids=["two splits", "one split"])
@pytest.mark.parametrize("columns", COLUMNS.values(), ids=COLUMNS)
def test_rows_are_what_they_are_in_memory(
    columns: dict[str, Any], test: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, columns, test=test)
    whole, by_rows = (read(path, monkeypatch, large) for large in (2**40, 1))
    one, other = tensor_of(whole.train_inputs), tensor_of(by_rows.train_inputs)
    assert not isinstance(one, MappedColumns)
    assert isinstance(other, MappedColumns)
    assert (other.shape, other.dtype) == (one.shape, one.dtype)
    for index in (3, -1, slice(5, 1500, 7), torch.tensor([7, 1600, 0, 7]), one.flatten(1)[:, 0] > 0, (slice(2, 9), 1)):
        assert torch.equal(one[index], other[index])
    assert by_rows.content_hash == whole.content_hash
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(whole.moments, by_rows.moments, strict=True))
    assert pickle.loads(pickle.dumps(by_rows)).content_hash == whole.content_hash


@pytest.mark.slow
def test_a_run_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, COLUMNS["pixels"], test=True)
    runs = []
    for large in (2**40, 1):
        data = {"source": read(path, monkeypatch, large), "clients": 2, "partition": "iid", "train_limit": 100}
        runs.append(simulate(Experiment(strategy="fedavg", nets="mlp", rounds=1, data=data)).metrics[-1]["accuracy"])
    assert runs[0] == runs[1]


def test_features_of_several_rows_can_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = read(saved(tmp_path, COLUMNS["pixels"], test=True), monkeypatch, 1).train_inputs
    assert isinstance(pixels, MappedColumns)
    donors, features = torch.tensor([[1, 1600], [7, 1]]), torch.tensor([0, 2])
    assert torch.equal(pixels[donors, features], pixels[:][donors, features])
    assert torch.equal(pixels.float(), pixels[:].float())  # whatever else is asked of it reads it whole


def test_what_is_not_plain_is_read_whole_and_told_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = [[1.0, 2.0]] * (ROWS - 1) + [[1.0]]
    path = saved(tmp_path, {"x": (lists, datasets.Sequence(datasets.Value("float32")))}, test=False)
    with pytest.raises(InputError, match=f"column 'x' of the train split holds lists of 1 to 2 values, row {ROWS - 1} differs"):
        read(path, monkeypatch, 1)
