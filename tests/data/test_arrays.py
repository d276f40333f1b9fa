"""Arrays in files and from Python: which axes are what, and which labels are labels."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedkd.base.errors import InputError, Notice
from fedkd.data import MappedArray, load_source
from fedkd.data.array_files import role_of, source_of_named
from fedkd.data.arrays import channels_first, inputs_of

X, Y = np.zeros((10, 8, 8), np.uint8), np.arange(10) % 3


def test_medmnist_as_it_comes(tmp_path: Path) -> None:
    pixels = np.arange(4 * 6 * 6 * 3, dtype=np.uint8).reshape(4, 6, 6, 3)
    splits = {f"{split}_{role}": value for split in ("train", "val", "test") for role, value in _medmnist(pixels).items()}
    np.savez(tmp_path / "pathmnist.npz", **splits)
    source = load_source(str(tmp_path / "pathmnist.npz"))
    assert source.shape == (3, 6, 6)
    assert source.train_inputs[0, :, 0, 1].tolist() == pixels[0, 0, 1].tolist()  # type: ignore[index, call-overload]
    assert (source.classes, source.test_labels.tolist()) == (("0", "1"), [0, 1, 1, 0])


def _medmnist(pixels: np.ndarray[Any, Any]) -> dict[str, Any]:
    return {"images": pixels, "labels": np.array([[0], [1], [1], [0]])}


@pytest.mark.parametrize(
    ("names", "samples"),
    [(("x", "y"), 8), (("X", "y"), 8), (("x_train", "y_train"), 8), (("X_train", "Y_train"), 8), (("data", "target"), 8)],
)
def test_usual_names_of_arrays(names: tuple[str, str], samples: int) -> None:
    with pytest.warns(Notice, match=r"there is no test split: 2 of 10 samples are held out as one"):
        source = source_of_named("mine", dict(zip(names, (X, Y), strict=True)))
    assert (source.shape, len(source.train_labels)) == ((1, 8, 8), samples)


def test_names_that_say_nothing() -> None:
    assert role_of("latent_x_y") == role_of("weights") == ("", "")
    with pytest.raises(
        InputError, match="data source 'mine' holds a, x: fedkd reads arrays called train_images and train_labels"
    ):
        source_of_named("mine", {"x": X, "a": Y})
    with pytest.raises(InputError, match="'x' and 'images' could both be the inputs: leave one out"):
        source_of_named("mine", {"x": X, "images": X, "y": Y})


@pytest.mark.parametrize(
    ("shape", "becomes"),
    [
        ((5, 28, 28, 3), (5, 3, 28, 28)),
        ((5, 3, 28, 28), (5, 3, 28, 28)),
        ((5, 64, 64, 13), (5, 13, 64, 64)),
        ((5, 13, 64, 64), (5, 13, 64, 64)),
        ((5, 20, 30, 4), (5, 4, 20, 30)),
        ((5, 4, 4, 4), (5, 4, 4, 4)),
        ((5, 28, 28), (5, 1, 28, 28)),
    ],
)
def test_where_the_channels_stand(shape: tuple[int, ...], becomes: tuple[int, ...]) -> None:
    assert channels_first(np.zeros(shape, np.uint8)).shape == becomes


@pytest.mark.filterwarnings("ignore::fedkd.base.errors.Notice")
@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (np.zeros((2, 3)), torch.float32),
        (np.zeros((2, 3), np.float16), torch.float16),
        (np.zeros((2, 3), np.int32), torch.int64),
        (np.zeros((2, 3), np.uint8), torch.float32),
        (np.zeros((2, 3), bool), torch.float32),
        (np.zeros((2, 3, 4), np.int16), torch.float32),
        (np.full((2, 1, 4, 4), 255), torch.uint8),
        (np.full((2, 1, 4, 4), 256), torch.uint16),
        (np.zeros((2, 1, 4, 4), ">u2"), torch.uint8),
        (np.zeros((2, 1, 4, 4), ">f8"), torch.float32),
    ],
)
def test_types_become_ours(array: np.ndarray[Any, Any], dtype: torch.dtype) -> None:
    given = inputs_of("x", array)
    assert isinstance(given, torch.Tensor)
    assert given.dtype == dtype


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (
            X,
            np.zeros((10, 3)),
            r"labels of the train split are \(10, 3\), several a sample \(multi-label, or one column a class\)",
        ),
        (X, np.arange(10) / 2, r"labels of the train split are real numbers \(float64\): regression is not what fedkd does"),
        (X, np.array([None, *"abcdefghi"]), "some labels of the train split are missing: write -1 for no label"),
        (X, Y[:9], "the train split has 10 samples and 9 labels: give one for each"),
        (X[:, 0, 0], Y, r"samples have the shape \(10,\): give \(N, F\)"),
        ([[1, 2], [3]], [0, 1], r"no array can be made of it .*: pad or cut samples to one shape"),
        (np.full((10, 1, 2, 2), -1), Y, "hold whole numbers from -1 to -1: pixels run from 0 to 65535"),
        (X.astype(str), Y, "samples are <U3, not numbers: convert them"),
        (X[:3], Y[:3], "there is no test split, and 3 samples are too few to hold out a fifth"),
    ],
)
def test_arrays_that_do_not_fit(x: Any, y: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        source_of_named("mine", {"x": x, "y": y})
    assert "\n" not in str(caught.value)


def write_npy(folder: Path, **arrays: Any) -> str:
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return str(folder)


def test_npy_files_beside_each_other_stay_on_disk(tmp_path: Path) -> None:
    pixels = np.arange(10 * 8 * 8 * 3, dtype=np.uint8).reshape(10, 8, 8, 3)
    path = write_npy(tmp_path, train_inputs=pixels, train_labels=Y, test_inputs=pixels, test_labels=Y, groups=Y)
    source = load_source(path)
    assert isinstance(source.train_inputs, MappedArray)
    assert source.groups is not None
    picked = source.train_inputs[torch.tensor([3, 1])]
    assert picked.is_contiguous()
    assert torch.equal(picked, torch.from_numpy(pixels[[3, 1]]).permute(0, 3, 1, 2))
    again = pickle.loads(pickle.dumps(source.train_inputs))
    assert isinstance(again, MappedArray)
    assert torch.equal(again[:], source.train_inputs[:])


def test_token_ids_by_their_name_are_nothing_to_tell(recwarn: pytest.WarningsRecorder) -> None:
    ids = np.arange(30).reshape(10, 3)
    source_of_named("mine", {"x": {"input_ids": ids, "attention_mask": np.ones_like(ids)}, "y": Y})
    source_of_named("mine", {"x": ids, "y": Y})
    assert ["read as token ids" in str(told.message) for told in recwarn].count(True) == 1


def test_files_of_arrays_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "broken.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"broken\.npz' is no readable \.npz of arrays"):
        load_source(str(tmp_path / "broken.npz"))
    np.savez(tmp_path / "objects.npz", x=np.array([[1, 2], [3]], dtype=object), y=Y)
    with pytest.raises(InputError, match=r"objects\.npz' is no readable \.npz of arrays: Object arrays cannot be loaded"):
        load_source(str(tmp_path / "objects.npz"))
    for name in ("train_inputs", "train_labels"):
        (tmp_path / f"{name}.npy").write_bytes(b"x")
    with pytest.raises(InputError, match=r"train_inputs\.npy' is no readable \.npy of numbers"):
        load_source(str(tmp_path))
    np.savez(tmp_path / "fine.npz", x=X, y=Y)
    with pytest.raises(InputError, match=r"data\.label_column = 'y': the files hold arrays, without columns: leave it out"):
        load_source(str(tmp_path / "fine.npz"), label_column="y")


def test_an_array_beside_images_is_no_data_set(tmp_path: Path) -> None:
    from PIL import Image

    write_npy(tmp_path, features=X)
    for kind in ("ant", "bee"):
        (tmp_path / kind).mkdir()
        for number in range(5):
            Image.new("L", (2, 2), number).save(tmp_path / kind / f"{number}.png")
    with pytest.warns(Notice, match=r"left out: 1 files that are no images \(features\.npy\)"):
        assert load_source(str(tmp_path)).classes == ("ant", "bee")


def test_arrays_that_are_not_used_are_named() -> None:
    splits = {f"{role}_{split}": array for split in ("train", "val", "test") for role, array in (("x", X), ("y", Y))}
    with pytest.warns(Notice, match="left out: means, x_val, y_val"):
        source_of_named("mine", {**splits, "means": X})
