"""What folders of images mean: recognised, or asked about in one line, never guessed in silence."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from fedkd.base.errors import InputError, Notice
from fedkd.data import Source, load_source
from fedkd.data.layout import read_layout
from fedkd.data.splits import choose_splits, read_splits

Photograph = Callable[..., Source]


def photograph(folder: Path, *places: str, count: int = 2) -> None:
    """Some images of 2x2 in each of these folders."""
    for place in places:
        (folder / place).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.new("L", (2, 2), number).save(folder / place / f"{number}.png")


def both(*names: str, under: tuple[str, ...] = ("ant", "bee")) -> list[str]:
    return [f"{name}/{kind}" for name in names for kind in under]


def read(folder: Path, **options: str) -> tuple[Source, str]:
    """The source, and all that was said while it was read."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        source = load_source(str(folder), **options)
    assert all(note.category is Notice and "\n" not in str(note.message) for note in said)
    return source, " ".join(str(note.message) for note in said)


@pytest.mark.parametrize(
    ("places", "roles"),
    [
        (["ant", "bee"], "class"),
        (both("train", "test"), "split/class"),
        (both("TRAIN", "Validation"), "split/class"),
        (both("trn", "tst"), "split/class"),
        (both("seg_train/seg_train", "seg_test/seg_test"), "split/*/class"),
        (both("training_set", "TestSet"), "split/class"),
        (both("train2017", "val2017"), "split/class"),
        (both("train"), "split/class"),
        (["bus", "plane", "train"], "class"),
        (["train station", "test tube", "ant"], "class"),
        (both("site1", "site2"), "client/class"),
        (both("North Hospital", "Hospital South"), "client/class"),
        (both("ant", "bee", under=("patient 1", "patient 2")), "class/client"),
        (both("ant", "bee", under=("batch_1", "batch_2")), "class/client"),
        (both("ant", "bee", under=("001", "002")), "class/client"),
        (both("train/client_0", "train/client_1", "test/client_0"), "split/client/class"),
        (both("client_0/train", "client_1/train", "client_1/test"), "client/split/class"),
        (["train/n01/images", "train/n02/images", "val/n01/images"], "split/class/*"),
        (both("user1", "user2", under=("ant",)), "client/class"),
        (["ant", "bee/old"], "class"),
    ],
)
def test_layouts_that_are_clear(places: list[str], roles: str) -> None:
    assert str(read_layout([tuple(place.split("/")) for place in places])) == roles


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (
            both("berlin", "rome"),
            r"could be the folders berlin, rome or, below them, ant, bee: set data\.layout = 'class' or 'cli",
        ),
        (both("train", "extra"), r"extra, train could be classes, or train a split of its own: set data\.layout"),
        (["ant", "bee", "test/ant"], "test a split of its own"),
        (["train", "test", "exam"], "could be classes, or splits without labels"),
        (["train", "test"], "test, train hold images and no folder of a class, so no labels"),
        ([""], "it holds images and no folder of a class, so no labels"),
        (["", "ant", "bee"], "it holds images without a folder of their class, unlike the others"),
        (["train/ant", "train/bee", "test"], "^test holds images without a folder of their class, unlike the others"),
        (["client_0", "client_1"], "look like clients, and no level"),
        (["site_0/ant", "site_1"], "look like clients, and no level"),
        (both("site_1", "site_2", under=("user1", "user2")), "the classes could be the folders"),
        (both("a_train", "a_test", "b_train", "b_test"), "several sets"),
    ],
)
def test_layouts_that_could_be_two_things_are_asked_about(places: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_layout([tuple(filter(None, place.split("/"))) for place in places])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("layout", "classes", "owners"),
    [("class", ("berlin", "rome"), 0), ("client/class", ("ant", "bee"), 2), ("*/class", ("ant", "bee"), 0)],
)
def test_the_user_can_say_what_folders_mean(tmp_path: Path, layout: str, classes: tuple[str, ...], owners: int) -> None:
    photograph(tmp_path / "wrapped/once", *both("berlin", "rome"), count=5)
    source, _ = read(tmp_path, layout=layout)
    assert source.classes == classes
    assert (0 if source.groups is None else len(source.groups.unique())) == owners


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("kind/class", "'kind' is no level of folders: write split, client, class or"),
        ("client", "name class once"),
        ("client/split/class", "has 3 levels of folders, but some images lie below 2"),
        ("split/class", "none of the folders berlin, rome is called train"),
    ],
)
def test_layouts_that_cannot_be(tmp_path: Path, layout: str, message: str) -> None:
    photograph(tmp_path, *both("berlin", "rome"))
    with pytest.raises(InputError, match=rf"data\.layout = '{layout}'.*{message}"):
        load_source(str(tmp_path), layout=layout)


@pytest.mark.slow
def test_what_lies_about_is_no_class(tmp_path: Path) -> None:
    photograph(tmp_path, "ant", "bee", "__MACOSX/ant", ".git/objects", "ant/.ipynb_checkpoints", count=5)
    for litter in ("__MACOSX/ant/._0.png", ".DS_Store", "ant/Thumbs.db", "bee/desktop.ini"):
        (tmp_path / litter).write_bytes(b"\0\5\x16\7")
    source, said = read(tmp_path)
    assert (source.classes, len(source.train_labels), said) == (("ant", "bee"), 8, "")
    (tmp_path / "bee/README.md").write_text("bees")
    (tmp_path / "cow").mkdir()
    source, said = read(tmp_path)
    assert source.classes == ("ant", "bee")
    assert "left out: 1 files that are no images (README.md), empty folders (cow)" in said


def test_an_image_needs_no_ending(tmp_path: Path) -> None:
    photograph(tmp_path, "ant", "bee", count=5)
    (tmp_path / "ant/0.png").rename(tmp_path / "ant/0")
    assert len(read(tmp_path)[0].train_labels) == 8
    photograph(tmp_path / "few", "ant", "bee")
    with pytest.raises(InputError, match="no test split, and 4 labelled samples are too few to hold out a fifth"):
        load_source(str(tmp_path / "few"))


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    photograph(tmp_path, "ant", "bee")
    (tmp_path / "bee/1.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"bee/1\.png'\): not an image that can be read"):
        load_source(str(tmp_path))


def test_unusual_splits_are_read_and_shown(tmp_path: Path) -> None:
    photograph(tmp_path / "download/scans", *both("Training", "Testing"), "Training/cow", "figures")
    source, said = read(tmp_path)
    assert source.classes == ("ant", "bee", "cow")
    assert (len(source.train_labels), len(source.test_labels)) == (6, 4)
    assert "read as split/class: classes ant, bee, cow; splits Testing (4 images), Training (6 images)" in said
    assert "left out: 2 images in figures" in said


def test_folders_by_client_say_who_owns_what(tmp_path: Path) -> None:
    photograph(tmp_path, *both("clinic_a", "clinic_b"), "clinic_b/cow", count=5)
    source, said = read(tmp_path)
    assert source.classes == ("ant", "bee", "cow")
    assert source.groups is not None
    assert len(source.train_labels) == 20
    assert {*source.train_labels[source.groups == 0].tolist()} == {0, 1}, "the first clinic has no cows"
    assert "read as client/class: classes ant, bee, cow; clients clinic_a, clinic_b" in said


def test_training_images_without_classes_are_judged_by_half_of_the_labelled(tmp_path: Path) -> None:
    photograph(tmp_path, "train", count=6)
    photograph(tmp_path, "test/ant", "test/bee", count=4)
    source, said = read(tmp_path)
    assert source.classes == ("ant", "bee")
    assert (len(source.train_labels), int((source.train_labels < 0).sum()), len(source.test_labels)) == (10, 6, 4)
    assert "no training sample has a label: 4 of 8 labelled test samples join them" in said
    assert "no training sample is of" not in said
    photograph(tmp_path, "train/ant")
    with pytest.raises(InputError, match="train holds images without a folder of their class, unlike the others"):
        load_source(str(tmp_path))


def test_clients_within_splits_own_the_training_images(tmp_path: Path) -> None:
    photograph(tmp_path, *both("train/user_1", "train/user_2", "test/user_1"))
    source, _ = read(tmp_path)
    assert source.groups is not None
    assert source.groups.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert source.test_labels.tolist() == [0, 0, 1, 1]


def test_classes_of_both_splits_have_one_numbering(tmp_path: Path) -> None:
    photograph(tmp_path, "train/bee", "train/cow", "test/ant", "test/cow")
    source, said = read(tmp_path)
    assert source.classes == ("ant", "bee", "cow")
    assert (source.train_labels.tolist(), source.test_labels.tolist()) == ([1, 1, 2, 2], [0, 0, 2, 2])
    assert "no training sample is of ant, though test samples are" in said
    photograph(tmp_path, "test/Bee")
    with pytest.raises(InputError, match="'Bee' and 'bee' differ in small and capital letters only"):
        load_source(str(tmp_path))


def test_splits_without_a_class_in_common_are_refused(tmp_path: Path) -> None:
    photograph(tmp_path, *both("train/site_0", "train/site_1"), *both("test"))  # the sites are classes in no reading of test/
    with pytest.raises(InputError, match="train and test share no class, site_0, site_1 and ant, bee"):
        load_source(str(tmp_path))


def test_links_to_nowhere_and_names_that_are_no_text(tmp_path: Path) -> None:
    photograph(tmp_path, "ant", "bee", count=5)
    (tmp_path / "ant/lost.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(InputError, match=r"ant/lost\.png'\): not an image that can be read \(there is no such file\)"):
        load_source(str(tmp_path))
    os.rename(os.fsencode(tmp_path / "ant/lost.png"), os.fsencode(tmp_path) + b"/ant/\xff.png")
    with pytest.raises(InputError, match=r"is no text in UTF-8, b'\\xff\.png': rename it"):
        load_source(str(tmp_path))


def test_folders_that_hold_something_else(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no images \(nothing else either\)"):
        load_source(str(tmp_path))
    (tmp_path / "set.npz").write_bytes(b"PK")
    with pytest.raises(
        InputError,
        match=r"files that are not read \(1 \.npz\): name the \.npz itself in data\.source; write a function that",
    ):
        load_source(str(tmp_path))
    for name in ("set.pkl", "set.h5", "one.png"):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(InputError, match=r"read are parquet, CSV and \.npz files, folders of images .*data\.Source"):
            load_source(str(tmp_path / name))


def test_a_folder_that_holds_itself_is_read_once(tmp_path: Path) -> None:
    photograph(tmp_path, "ant", "bee", count=5)
    (tmp_path / "ant/again").symlink_to(tmp_path, target_is_directory=True)
    assert len(read(tmp_path)[0].train_labels) == 8


def test_which_splits_are_used() -> None:
    assert choose_splits(read_splits(["train", "test", "val", "extra"], sure=True)) == ("train", "test", ("extra", "val"))
    assert choose_splits(read_splits(["train", "dev"], sure=True)) == ("train", "dev", ())
    assert choose_splits(read_splits(["train", "unlabelled"], sure=True)) == ("train", "", ("unlabelled",))
    assert choose_splits({"test": "test"}) == ("test", "", ())
    assert choose_splits({"Train": "train", "training": "train", "test": "test"}).train == "Train", "plainly spelled"
    with pytest.raises(InputError, match="Training and trainset are both train splits: rename or remove one"):
        choose_splits({"Training": "train", "trainset": "train", "test": "test"})
    with pytest.raises(InputError, match="no train split, only a, b"):
        choose_splits({"a": "", "b": ""})
