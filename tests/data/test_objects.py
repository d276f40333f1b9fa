"""What is at hand in Python becomes a source: arrays, frames, torch data sets, Hugging Face's."""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, Subset, TensorDataset

from fedkd import Experiment
from fedkd.base.errors import InputError
from fedkd.data import Source
from fedkd.data.objects import Given, source_of
from fedkd.data.options import Options

pytestmark = pytest.mark.filterwarnings("ignore::fedkd.base.errors.Notice")

X, Y = torch.arange(20.0).view(10, 2), torch.arange(10) % 2
FRAME = pandas.DataFrame({"a": X[:, 0].numpy(), "b": X[:, 1].numpy(), "kind": ["ant", "bee"] * 5})


class Items(Dataset[Any]):
    """A map-style data set of any items."""

    def __init__(self, *items: Any, classes: list[str] | None = None) -> None:
        self.items = items
        if classes:
            self.classes = classes

    def __getitem__(self, row: int) -> Any:
        return self.items[row]

    def __len__(self) -> int:
        return len(self.items)


def read(given: Any, **options: Any) -> Source:
    return source_of(given, "mine", Options(**options))


@pytest.mark.parametrize(
    "given",
    [
        (X, Y),
        (X.numpy(), Y.numpy()),
        (X.numpy(), Y.tolist()),
        (FRAME[["a", "b"]], Y.numpy()),
        (FRAME[["a", "b"]], FRAME[["kind"]]),
        FRAME,
        datasets.Dataset.from_pandas(FRAME),
        datasets.DatasetDict(train=datasets.Dataset.from_pandas(FRAME)),
        TensorDataset(X, Y),
        Subset(TensorDataset(X, Y), range(10)),
        Items(*zip(X, Y, strict=True)),
        [(x.tolist(), int(y)) for x, y in zip(X, Y, strict=True)],
        {"x": X, "y": Y},
    ],
    ids=lambda given: type(given).__name__,
)
def test_the_same_samples_in_any_form(given: Any) -> None:
    source = read(given)
    assert (source.kind.name, source.shape, len(source.train_labels), len(source.test_labels)) == ("vector", (2,), 8, 2)
    assert isinstance(source.train_inputs, torch.Tensor)
    assert torch.equal(source.train_inputs[:, 0] / 2 % 2, source.train_labels.float()), "labels stay with their samples"
    again = read((given, given)) if not isinstance(given, dict | list | datasets.DatasetDict) else None
    if again is not None:
        assert (len(again.train_labels), len(again.test_labels)) == (10, 10), "a pair is train and test"


def test_columns_of_a_frame_are_chosen_as_those_of_a_file() -> None:
    source = read(FRAME.assign(site=["rome", "oslo"] * 5), label_column="kind", client_column="site", feature_columns=("b",))
    assert (source.classes, source.shape) == (("ant", "bee"), (1,))
    assert source.groups is not None
    assert torch.equal(source.groups, 1 - source.train_labels)


def test_names_as_labels_are_sorted() -> None:
    assert read((X, ["dog", "ant"] * 5)).classes == ("ant", "dog")
    assert read((X, pandas.Series(["dog", "ant"] * 5, dtype="category"))).classes == ("ant", "dog")


def test_pictures_and_class_names_as_torchvision_has_them() -> None:
    items = Items(*((Image.new("RGB", (4, 6), (i, 0, 0)), i % 2) for i in range(10)), classes=["cat", "dog"])
    source = read(items)
    assert (source.shape, source.classes) == ((3, 6, 4), ("cat", "dog"))


def test_samples_of_several_tensors() -> None:
    items = [({"input_ids": torch.tensor([1, 2]), "attention_mask": torch.tensor([1, 1])}, i % 2) for i in range(10)]
    assert read(items).shape == {"input_ids": (2,), "attention_mask": (2,)}


def test_texts_are_read_as_a_column_of_them_is() -> None:
    words = ["ab", "ba"] * 5
    for given in ((words, Y), (np.array(words), Y), [(word, int(y)) for word, y in zip(words, Y, strict=True)]):
        assert read(given, tokens="characters").train_inputs[0].tolist() in ([2, 3], [3, 2])  # type: ignore[index]
    with pytest.raises(InputError, match=r"the samples are text \(column 'text'\): set data\.tokens"):
        read((words, Y))


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ((X, Y, X), {}, r"is a tuple of 3: give \(X, y\), or \(train, test\)"),
        ((X, Y.float()), {}, "labels of the train split are real numbers .*: regression is not what fedkd does"),
        ((X, torch.zeros(10, 4)), {}, r"labels of the train split are \(10, 4\), several a sample \(multi-label"),
        ((FRAME[["a"]], np.zeros((10, 4))), {}, r"labels are \(10, 4\), several a sample"),
        (Items(*((x, float(x[0]) / 2) for x in X)), {}, "real numbers"),
        (Items(*((x, Y) for x in X)), {}, "several a sample"),
        (Items(*X), {}, r"item 0 is Tensor, not a pair \(x, y\)"),
        (Items(), {}, "is empty: it has no items"),
        (
            Items((X[0], 0), (X[0, :1], 1)),
            {},
            r"item 1 has the shape \(1,\), the first \(2,\): pad or cut samples to one shape",
        ),
        ((X, Y), {"label_column": "kind"}, "data.label_column = 'kind': the data set is arrays, without columns: leave it out"),
        (FRAME.assign(a=[1, "x"] * 5), {}, "the train frame cannot be read: .*: keep one type of value in a column"),
        (FRAME, {"label_column": "a"}, "column 'a' of labels holds real numbers: regression"),
    ],
)
def test_what_cannot_be_taken_is_one_line(given: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(given, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [3, X, iter([(1, 2)]), object(), {"name": "digits"}, ["digits"], {}, []])
def test_what_is_no_data_set_is_refused_before_it_is_read(wrong: Any) -> None:
    with pytest.raises(InputError, match=r"data\.source: give a name, a path, a function, or a fedkd\.data\.Source, \(X, y\)"):
        Experiment(strategy="fedavg", data={"source": wrong})


@pytest.mark.parametrize("source", [(X, Y), FRAME, lambda: (X, Y), lambda: FRAME], ids=["xy", "frame", "f-xy", "f-frame"])
def test_an_experiment_takes_them(source: Any) -> None:
    experiment = Experiment(strategy="fedavg", nets="mlp", data={"source": source, "clients": 2, "partition": "iid"})
    assert experiment.federation().source.shape == (2,)
    assert experiment == Experiment(strategy="fedavg", nets="mlp", data={"source": source, "clients": 2, "partition": "iid"})


def test_equal_are_those_of_the_same_object() -> None:
    assert Given(FRAME) == Given(FRAME)
    assert Given(FRAME) != Given(FRAME.copy())
