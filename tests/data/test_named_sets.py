"""Sets that come with libraries, and words of several languages."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedkd.base.errors import InputError
from fedkd.data import load_source


@pytest.mark.parametrize(
    ("name", "features", "samples", "classes"),
    [("breast_cancer", 30, 569, ("malignant", "benign")), ("wine", 13, 178, ("class_0", "class_1", "class_2"))],
)
def test_tables_of_scikit_learn(name: str, features: int, samples: int, classes: tuple[str, ...]) -> None:
    source = load_source(name)
    assert (source.kind.name, source.shape, source.classes) == ("vector", (features,), classes)
    assert len(source.train_labels) + len(source.test_labels) == samples
    with pytest.raises(InputError, match=rf"data\.label_column = 'x': '{name}' comes with scikit-learn: leave it out"):
        load_source(name, label_column="x")


@pytest.mark.slow
def test_shoulder_exercises_are_windows_of_ten_people() -> None:
    pytest.importorskip("seglearn")
    source = load_source("shoulder_exercises")
    assert (source.kind.name, source.shape, len(source.classes)) == ("sequence", (100, 6), 7)
    assert source.groups is not None
    assert torch.unique(source.groups).tolist() == list(range(10))
    assert (len(source.train_labels), len(source.test_labels)) == (1877, 416)


def lists(folder: Path) -> str:
    """Words of two languages: 'same' is of both, 'Name' and "it's" are no words, 'ab' is too short."""
    (folder / "north").write_text("\n".join(["same", "Name", "it's", "ab", *(f"nord{letter}" for letter in "abcdefghij")]))
    (folder / "south").write_text("\n".join(["same", *(f"s\u00fcd{letter}" for letter in "abcdefghij")]), encoding="latin-1")
    return str(folder)


def test_words_are_of_the_language_whose_list_alone_has_them(tmp_path: Path) -> None:
    source = load_source("word_languages", path=lists(tmp_path), length=6)
    assert (source.classes, source.shape, source.kind.name) == (("north", "south"), (6,), "tokens")
    assert (source.train_labels.tolist(), source.test_labels.tolist()) == ([0] * 8 + [1] * 8, [0, 0, 1, 1])
    assert bool((source.train_inputs[:8, 5] == 0).all()), "words of five letters are padded"  # type: ignore[index, call-overload]
    assert source.content_hash == load_source("word_languages", path=lists(tmp_path), length=6).content_hash


def test_lists_that_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fedkd.data.word_languages as module

    monkeypatch.setattr(module, "DICTIONARIES", tmp_path)
    (tmp_path / "american-english").write_text("words\n")
    with pytest.raises(InputError, match="reads Debian's word lists: apt-get install wdutch wfrench witalian wngerman"):
        module.word_languages("", module.Options())
    with pytest.raises(InputError, match="holds 1 word lists: give one for each of two languages"):
        load_source("word_languages", path=str(tmp_path))
    with pytest.raises(InputError, match="word_languages is read by 'characters': leave it out"):
        load_source("word_languages", path=lists(tmp_path), tokens="tokenizer.json")
