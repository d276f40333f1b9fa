"""Texts as tokens, lists as signals, and ids that were made elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from fedkd.base.errors import InputError, Notice
from fedkd.data import Source, load_source


def saved(folder: Path, **columns: Any) -> str:
    """A Hugging Face data set on disk, the same rows to train and to test on."""
    split = datasets.Dataset.from_dict(columns)
    datasets.DatasetDict(train=split, test=split).save_to_disk(folder / "saved")
    return str(folder / "saved")


WORDS = ["ab", "cab", "a"]


def test_characters_are_numbered_in_sorted_order(tmp_path: Path) -> None:
    train, test = datasets.Dataset.from_dict({"word": WORDS, "label": [0, 1, 0]}), {"word": ["abcdab"], "label": [1]}
    splits = datasets.DatasetDict(train=train, test=datasets.Dataset.from_dict(test))
    splits.save_to_disk(tmp_path / "saved")
    with pytest.warns(Notice, match=r"1 of 4 texts are longer than 3 tokens and cut \(data\.length\)"):
        source = load_source(str(tmp_path / "saved"), tokens="characters", label_column="label")
    assert (source.kind.name, source.vocabulary) == ("tokens", 5)
    assert source.train_inputs.tolist() == [[2, 3, 0], [4, 2, 3], [2, 0, 0]]  # type: ignore[union-attr]
    longer = load_source(str(tmp_path / "saved"), tokens="characters", label_column="label", length=6)
    assert longer.test_inputs.tolist() == [[2, 3, 4, 1, 2, 3]], "d is in no training text"  # type: ignore[union-attr]


def test_a_tokenizer_of_the_users_own(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    path = saved(tmp_path, text=["red fox", "red", "blue whale here"], label=[0, 1, 0])

    def write(*words: str) -> str:
        model = tokenizers.models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]")
        tokenizer = tokenizers.Tokenizer(model)
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        return str(tmp_path / "tokenizer.json")

    source = load_source(
        path, tokens=write("[PAD]", "[UNK]", "red", "blue", "fox"), label_column="label", feature_columns=["text"]
    )
    assert source.train_inputs.tolist() == [[2, 4, 0], [2, 0, 0], [3, 1, 1]]  # type: ignore[union-attr]
    assert source.vocabulary == 5
    with pytest.raises(InputError, match=r"token 0 of tokenizer\.json is 'red', and fedkd pads with 0"):
        load_source(path, tokens=write("red", "[UNK]", "[PAD]"), label_column="label")
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": 3}))
    with pytest.raises(InputError, match=r"is no tokenizer\.json"):
        load_source(path, tokens=str(tmp_path / "tokenizer.json"), label_column="label")
    with pytest.raises(InputError, match=r"there is no such file: write 'characters', or the path of a tokenizer\.json"):
        load_source(path, tokens="words", label_column="label")


def test_text_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the samples are text \(column 'text'\): set data\.tokens = 'characters' or to a"):
        load_source(saved(tmp_path, text=WORDS, label=[0, 1, 0]), label_column="label")
    with pytest.raises(InputError, match="texts have none: set it to 'drop'"):
        load_source(str(tmp_path / "saved"), label_column="label", tokens="characters", missing="mean")


def test_lists_of_numbers_are_signals(tmp_path: Path) -> None:
    path = saved(tmp_path, left=[[1.0, 2.0], [3.0, 4.0]], right=[[5, 6], [7, 8]], label=[0, 1])
    source = load_source(path)
    assert (source.kind.name, source.shape) == ("sequence", (2, 2))
    assert source.train_inputs[0].tolist() == [[1, 5], [2, 6]], "times by features"  # type: ignore[index]
    assert load_source(path, feature_columns=["left"]).shape == (2, 1)


def test_lists_of_lists_are_signals_of_several_values(tmp_path: Path) -> None:
    source: Source = load_source(saved(tmp_path, x=[[[1, 2], [3, 4], [5, 6]]] * 2, label=[0, 1]))
    assert source.shape == (3, 2)


@pytest.mark.filterwarnings("ignore::fedkd.base.errors.Notice")
def test_token_ids_that_were_made_elsewhere(tmp_path: Path) -> None:
    ids, mask = [[5, 6, 0], [7, 0, 0]], [[1, 1, 0], [1, 0, 0]]
    source = load_source(
        saved(tmp_path, text=["a b", "c"], input_ids=ids, attention_mask=mask, label=[0, 1]), label_column="label"
    )
    assert source.shape == {"input_ids": (3,), "attention_mask": (3,)}
    assert source.vocabulary == 8


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"x": [[1.0], [1.0, 2.0]]},
            "column 'x' of the train split holds lists of 1 to 2 values, row 1 differs from the first",
        ),
        (
            {"x": [[1.0], None]},
            "column 'x' has no value in 1 of 2 rows of the train split, first in row 1: set data.missing = 'd",
        ),
        ({"x": [[1.0, 2.0], [1.0, None]]}, "a list of column 'x' in the train split misses a value, in row 1"),
        ({"x": [["a"], ["b"]]}, "column 'x' of the train split holds lists of string, not of numbers"),
        ({"x": [[1.0], [2.0]], "age": [1.0, 2.0]}, r"columns of lists \(x\) and of single values \(age\) stand beside each"),
        ({"x": [[1.0], [2.0]], "z": [[1.0, 1.0], [2.0, 2.0]]}, r"the columns' lists differ in shape \(x \(1,\), z \(2,\)\)"),
    ],
)
def test_lists_that_do_not_fit(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_source(saved(tmp_path, **columns, label=[0, 1]))
    assert "\n" not in str(caught.value)
