"""Data sets in files: parquet, saved by Hugging Face's library, folders of images. No network is needed or used."""

from __future__ import annotations

import io
import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from fedkd.base.errors import InputError, Notice
from fedkd.data import load_source


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*unused: Any) -> None:
        raise AssertionError("a local data set must not touch the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def png(value: int, *, mode: str = "L", size: int = 4) -> bytes:
    """A one-coloured PNG."""
    shape = (size, size) if mode == "L" else (size, size, 3)
    file = io.BytesIO()
    Image.fromarray(np.full(shape, value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def write_parquet(path: Path, images: list[bytes], features: dict[str, Any] | None = None, **columns: Any) -> None:
    """Images as {bytes, path} in a column ``img``, as Hugging Face stores them, and other columns."""
    encoded = [{"bytes": image, "path": None} for image in images]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table({"img": pyarrow.array(encoded, kind), **columns})
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path)


LABELLED = {"img": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}


def test_a_folder_of_parquet_files(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [png(1), png(2), png(3)], LABELLED, label=[0, 1, 1])
    write_parquet(tmp_path / "test.parquet", [png(9)], LABELLED, label=[1])
    source = load_source("cifar10", path=str(tmp_path))
    assert source.train_inputs.shape == (3, 1, 4, 4)
    assert source.train_inputs[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert (source.train_labels.tolist(), source.test_labels.tolist()) == ([0, 1, 1], [1])
    assert source.classes == ("cat", "dog")


def test_shards_and_splits_as_on_the_hub(tmp_path: Path) -> None:
    for shard in range(2):
        write_parquet(tmp_path / f"data/train-0000{shard}-of-00002.parquet", [png(shard)], label=[shard])
    write_parquet(tmp_path / "data/validation-00000-of-00001.parquet", [png(7)], label=[0])
    source = load_source(str(tmp_path))
    assert source.train_inputs[:, 0, 0, 0].tolist() == [0, 1]
    assert source.test_inputs[:, 0, 0, 0].tolist() == [7], "validation stands in for a missing test split"


def test_one_file_is_cut_80_to_20_and_owners_go_with_it(tmp_path: Path) -> None:
    file = tmp_path / "all.parquet"
    write_parquet(file, [png(i) for i in range(10)], label=list(range(10)), writer=[f"w{i // 5}" for i in range(10)])
    source = load_source(str(file), label_column="label", client_column="writer")
    assert (len(source.train_labels), len(source.test_labels)) == (8, 2)
    assert source.groups is not None
    assert source.groups.tolist() == [label // 5 for label in source.train_labels.tolist()]


def test_text_labels_are_numbered_in_sorted_order(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [png(1), png(2), png(3)], kind=["dog", "ant", "dog"])
    write_parquet(tmp_path / "test.parquet", [png(4)], kind=["cat"])
    source = load_source(str(tmp_path))
    assert source.classes == ("ant", "cat", "dog")
    assert (source.train_labels.tolist(), source.test_labels.tolist()) == ([2, 0, 2], [1])


def test_grey_becomes_colour_where_another_image_has_it(tmp_path: Path) -> None:
    images = [png(5), png(6, mode="RGB"), *(png(7) for _ in range(8))]
    write_parquet(tmp_path / "train.parquet", images, label=[0] * 10)
    assert load_source(str(tmp_path)).train_inputs.shape == (8, 3, 4, 4)


def test_folders_of_images(tmp_path: Path) -> None:
    for split, kind, value in (("train", "ant", 1), ("train", "bee", 2), ("test", "bee", 3)):
        folder = tmp_path / split / kind
        folder.mkdir(parents=True)
        (folder / "one.png").write_bytes(png(value))
    source = load_source(str(tmp_path))
    assert source.classes == ("ant", "bee")
    assert (source.train_labels.tolist(), source.test_labels.tolist()) == ([0, 1], [1])
    (tmp_path / "test/bee/readme.txt").write_text("not an image")
    with pytest.warns(Notice, match=r"left out: 1 files that are no images \(readme\.txt\)"):
        load_source(str(tmp_path), image_column="image")


def test_a_data_set_saved_by_hugging_face(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["x", "y"]))
    parts = {
        split: datasets.Dataset.from_dict(
            {"image": [{"bytes": png(value), "path": None}], "label": [value % 2]}, features=features
        )
        for split, value in (("train", 1), ("test", 4))
    }
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    source = load_source(str(tmp_path / "saved"))
    assert source.classes == ("x", "y")
    assert torch.unique(source.train_inputs).tolist() == [1]
    assert source.test_labels.tolist() == [0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_column": "image"}, r"unknown data\.image_column.*did you mean 'img'"),
        ({"image_column": "label"}, r"'label' \(int64\) does not fit data\.image_column"),
        ({"label_column": "img"}, r"does not fit data\.label_column"),
        ({"client_column": "user"}, r"unknown data\.client_column"),
    ],
)
def test_wrong_columns(tmp_path: Path, options: dict[str, str], message: str) -> None:
    write_parquet(tmp_path / "train.parquet", [png(1)] * 5, label=[0] * 5)
    with pytest.raises(InputError, match=message):
        load_source(str(tmp_path), **options)


def test_two_possible_label_columns_must_be_told_apart(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [png(1)] * 5, fine=[0, 1, 2, 3, 4], coarse=[0, 0, 1, 1, 1])
    with pytest.raises(InputError, match=r"cannot tell the label column among img, fine, coarse; set data\.label_column"):
        load_source(str(tmp_path))
    assert len(load_source(str(tmp_path), label_column="coarse").classes) == 2


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([png(1), b"no image"], r"row 1: not an image"),
        ([png(1), png(1)[:40]], r"row 1: not an image"),
        ([png(1), png(1, size=5)], r"row 1: the image is 5x5 but the first is 4x4; resize"),
    ],
)
def test_images_that_do_not_fit(tmp_path: Path, images: list[bytes], message: str) -> None:
    write_parquet(tmp_path / "train.parquet", images, label=[0, 1])
    with pytest.raises(InputError, match=message):
        load_source(str(tmp_path))


def test_missing_labels_and_hidden_labels_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [png(1), png(2)], LABELLED, label=[0, None])
    with pytest.raises(InputError, match="some values of column 'label' are missing"):
        load_source(str(tmp_path))
    write_parquet(tmp_path / "train.parquet", [png(1), png(2)], LABELLED, label=[0, 1])
    write_parquet(tmp_path / "test.parquet", [png(1)], LABELLED, label=[-1])
    with pytest.raises(InputError, match=r"no sample of the split test has a label \(-1 stands for none\)"):
        load_source(str(tmp_path))


def test_paths_that_hold_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no images"):
        load_source(str(tmp_path))
    (tmp_path / "train.parquet").write_text("not parquet")
    with pytest.raises(InputError, match=r"no readable parquet file"):
        load_source(str(tmp_path))


def test_a_written_jpeg_is_read_as_it_is_shown(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    write_parquet(tmp_path / "train.parquet", [file.getvalue()] * 5, label=[0] * 5)
    shown = torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1)
    assert torch.equal(load_source(str(tmp_path)).train_inputs[0], shown)


def names(*kinds: str) -> dict[str, Any]:
    return {"img": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(kinds)}}


def test_a_class_is_its_name_whatever_number_a_file_gives_it(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-00000-of-00002.parquet", [png(1), png(2)], names("cat", "dog"), label=[0, 1])
    write_parquet(tmp_path / "train-00001-of-00002.parquet", [png(3), png(4)], names("dog", "cat"), label=[0, 1])
    write_parquet(tmp_path / "test.parquet", [png(5), png(6)], names("emu", "dog", "cat"), label=[1, 2])
    source = load_source(str(tmp_path))
    assert source.classes == ("cat", "dog", "emu")
    assert source.train_labels.tolist() == [0, 1, 1, 0]
    assert source.test_labels.tolist() == [1, 0]


def test_names_come_from_whichever_table_has_them(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [png(1), png(2)], label=[1, 0])
    write_parquet(tmp_path / "test.parquet", [png(5)], names("cat", "dog"), label=[1])
    with pytest.warns(Notice, match="labels of the train split have no names and are read with those of the test split"):
        source = load_source(str(tmp_path))
    assert (source.classes, source.train_labels.tolist()) == (("cat", "dog"), [1, 0])
    write_parquet(tmp_path / "test.parquet", [png(5)], label=["dog"])
    with pytest.raises(InputError, match="labels are text in the test split and numbers in the train split"):
        load_source(str(tmp_path))
    write_parquet(tmp_path / "train.parquet", [png(1), png(2)], names("cat", "dog"), label=[1, 0])
    assert load_source(str(tmp_path)).test_labels.tolist() == [1], "text is a name"
    write_parquet(tmp_path / "test.parquet", [png(5)], label=["emu"])
    with pytest.raises(InputError, match="labels emu are none of the named classes cat, dog"):
        load_source(str(tmp_path))


def test_columns_of_two_files_are_joined_by_name(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [png(1), png(2)], label=[0, 1], shelf=[7, 8])
    table = pyarrow.parquet.read_table(tmp_path / "train.parquet")
    pyarrow.parquet.write_table(table.select(["shelf", "label", "img"]), tmp_path / "test.parquet")
    source = load_source(str(tmp_path))
    assert source.test_labels.tolist() == [0, 1]
    assert torch.equal(source.test_inputs, source.train_inputs)
    pyarrow.parquet.write_table(table.rename_columns(["img", "kind", "shelf"]), tmp_path / "test.parquet")
    with pytest.raises(InputError, match="the test split has no column 'label', only img, kind, shelf: rename it there"):
        load_source(str(tmp_path))


@pytest.mark.parametrize("named", [True, False])
def test_minus_one_is_no_label_and_no_class(tmp_path: Path, named: bool) -> None:
    features = names("cat", "dog") if named else None
    write_parquet(tmp_path / "train.parquet", [png(1), png(2), png(3)], features, label=[1, -1, 0])
    write_parquet(tmp_path / "test.parquet", [png(4), png(5)], features, label=[-1, 1])
    source = load_source(str(tmp_path))
    assert len(source.classes) == 2
    assert (source.train_labels.tolist(), source.test_labels.tolist()) == ([1, -1, 0], [-1, 1])
    write_parquet(tmp_path / "train.parquet", [png(1), png(2)], features, label=[1, -2])
    with pytest.raises(InputError, match="the train split: label -2: labels count from 0, and -1 stands for no label"):
        load_source(str(tmp_path))


def test_what_is_held_out_has_labels(tmp_path: Path) -> None:
    write_parquet(tmp_path / "all.parquet", [png(i) for i in range(30)], label=[i % 2 if i < 10 else -1 for i in range(30)])
    source = load_source(str(tmp_path / "all.parquet"))
    assert len(source.test_labels) == 2
    assert (source.test_labels >= 0).all()


def test_splits_that_are_neither_train_nor_test_join_neither(tmp_path: Path) -> None:
    for split, value in (("train", 1), ("test", 2), ("val", 3), ("unlabelled", 4)):
        write_parquet(tmp_path / f"data/{split}-00000-of-00001.parquet", [png(value), png(value)], label=[0, 1])
    with pytest.warns(
        Notice, match=r"trained on is the split data/train, tested on data/test; left out: data/unlab.*, data/val"
    ):
        source = load_source(str(tmp_path))
    assert torch.unique(source.train_inputs).tolist() == [1]
    (tmp_path / "data/train-00000-of-00001.parquet").unlink()
    with pytest.raises(InputError, match="no train split, only data/test, data/unlabelled, data/val"):
        load_source(str(tmp_path))


def test_parquet_files_without_a_split_in_their_names_are_one_set(tmp_path: Path) -> None:
    for part in ("north", "south"):
        write_parquet(tmp_path / f"{part}.parquet", [png(1)] * 5, label=[0, 1, 0, 1, 0])
    (tmp_path / "._north.parquet").write_bytes(b"\0\5\x16\7")
    with pytest.warns(Notice, match=r"2 parquet files are read as one set: north\.parquet, south\.parquet"):
        assert len(load_source(str(tmp_path)).train_labels) == 8


@pytest.mark.parametrize("option", ["", "label"])
def test_lists_of_labels_are_refused_in_words(tmp_path: Path, option: str) -> None:
    write_parquet(tmp_path / "train.parquet", [png(1)] * 5, label=[[0, 1]] * 5)
    with pytest.raises(
        InputError, match=r"column 'label' holds lists, several labels a sample \(multi-label\); fedkd takes one label a sample"
    ):
        load_source(str(tmp_path), label_column=option)


def test_categories_of_pandas_are_text_labels(tmp_path: Path) -> None:
    kinds = pyarrow.array(["dog", "ant", "dog", "ant", "dog"]).dictionary_encode()
    write_parquet(tmp_path / "train.parquet", [png(1)] * 5, label=kinds)
    assert load_source(str(tmp_path)).classes == ("ant", "dog")


def test_grey_in_one_split_and_colour_in_the_other(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [png(5), png(6)], label=[0, 1])
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    write_parquet(tmp_path / "test.parquet", [file.getvalue()], label=[1])
    with pytest.warns(Notice, match="2 of 3 images are grey and read in three equal channels"):
        source = load_source(str(tmp_path))
    assert source.train_inputs[:, :, 0, 0].tolist() == [[5, 5, 5], [6, 6, 6]]
    grey = load_source(str(tmp_path), channels="grey")
    assert torch.equal(grey.test_inputs[0, 0], torch.from_numpy(np.asarray(Image.fromarray(pixels).convert("L")).copy()))
    assert load_source("digits", channels="colour").shape == (3, 8, 8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_images_stand_upright(tmp_path: Path, orientation: int, kind: str) -> None:
    from PIL import ImageOps

    stored = Image.fromarray(np.arange(24, dtype=np.uint8).repeat(3).reshape(4, 6, 3) * 9)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    stored.save(file, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    turned = Image.new("L", (6, 4))
    turned.putdata(range(0, 216, 9))
    turned.getexif()[0x0112] = orientation
    upright = torch.from_numpy(np.asarray(ImageOps.exif_transpose(turned)).copy())
    write_parquet(tmp_path / "train.parquet", [file.getvalue()] * 5, label=[0, 1, 0, 1, 0])
    assert torch.equal(load_source(str(tmp_path)).train_inputs[0, 0], upright)


def test_kinds_of_images(tmp_path: Path) -> None:
    def load(image: Image.Image, kind: str, **options: Any) -> torch.Tensor:
        file = io.BytesIO()
        image.save(file, kind, **options)
        write_parquet(tmp_path / "train.parquet", [file.getvalue()] * 5, label=[0, 1, 0, 1, 0])
        return load_source(str(tmp_path)).train_inputs[0]

    red = Image.new("RGB", (4, 4), (200, 10, 30))
    for other in (red, red.convert("RGBA"), red.convert("P", palette=Image.Palette.ADAPTIVE)):
        assert load(other, "PNG")[:, 0, 0].tolist() == [200, 10, 30]
    assert load(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF")[:, 0, 0].tolist() == [255, 0, 0]
    with pytest.raises(InputError, match=r"row 0: the image holds real numbers \(mode F\); convert it to 8 or 16 bits"):
        load(Image.new("F", (4, 4), 0.5), "TIFF")
    with pytest.raises(InputError, match=r"row 0: the file holds 2 images \(GIF\); keep one of them"):
        load(Image.new("L", (4, 4), 9), "GIF", save_all=True, append_images=[Image.new("L", (4, 4), 99)])


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_a_pixel_are_kept(tmp_path: Path, kind: str) -> None:
    def written(value: int, mode: str = "I;16") -> bytes:
        file = io.BytesIO()
        Image.new(mode, (4, 4), value).save(file, kind)
        return file.getvalue()

    write_parquet(tmp_path / "train.parquet", [written(3000 + i) for i in range(5)], label=[0, 1, 0, 1, 0])
    source = load_source(str(tmp_path))
    assert source.train_inputs.dtype == torch.uint16
    assert 3000 <= int(source.train_inputs[0, 0, 0, 0]) < 3005
    write_parquet(tmp_path / "train.parquet", [written(3000), png(7)], label=[0, 1])
    with pytest.raises(InputError, match="row 1: the image has 8 bits a channel but the first 16; convert them to the same"):
        load_source(str(tmp_path))
