"""Tables of features: CSV and parquet files, and what may be wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas
import pytest
import torch

from fedkd.base.errors import InputError, Notice
from fedkd.data import load_source

PATIENTS = """age,blood,ill,clinic
30,a,no,rome
40,b,yes,rome
50,a,no,oslo
60,o,yes,oslo
"""


def write(folder: Path, **files: str) -> str:
    """CSV files by name; the folder's path."""
    for name, text in files.items():
        (folder / f"{name}.csv").write_text(text)
    return str(folder)


@pytest.mark.filterwarnings("ignore::fedkd.base.errors.Notice")
def test_numbers_and_categories_make_a_vector(tmp_path: Path) -> None:
    path = write(tmp_path, train=PATIENTS, test="clinic,ill,blood,age\nrome,yes,o,20\n")
    source = load_source(path, label_column="ill", client_column="clinic")
    assert source.kind.name == "vector"
    assert source.train_inputs.tolist() == [[30, 1, 0, 0], [40, 0, 1, 0], [50, 1, 0, 0], [60, 0, 0, 1]]  # type: ignore[union-attr]
    assert source.test_inputs.tolist() == [[20, 0, 0, 1]], "columns are joined by name"  # type: ignore[union-attr]
    assert (source.classes, source.train_labels.tolist()) == (("no", "yes"), [0, 1, 0, 1])
    assert source.groups is not None
    assert source.groups.tolist() == [1, 1, 0, 0], "oslo, rome"


def test_categories_are_numbered_by_name_and_not_by_order(tmp_path: Path) -> None:
    lines = PATIENTS.strip().split("\n")
    backwards = "\n".join([lines[0], *reversed(lines[1:])]) + "\n"
    path = write(tmp_path, train=backwards, test=PATIENTS)
    with pytest.warns(Notice, match=r"columns of text are encoded by their names in the training split: blood \(a, b, o\)"):
        source = load_source(path, label_column="ill", feature_columns=["blood"])
    assert source.train_inputs.tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0], [1, 0, 0]]  # type: ignore[union-attr]


@pytest.mark.filterwarnings("ignore::fedkd.base.errors.Notice")
@pytest.mark.parametrize("suffix", ["csv", "parquet", "tsv"])
def test_one_file_in_any_of_the_formats(tmp_path: Path, suffix: str) -> None:
    frame = pandas.DataFrame({"x": [float(i) for i in range(10)], "y": [i % 2 for i in range(10)]})
    file = tmp_path / f"all.{suffix}"
    frame.to_parquet(file) if suffix == "parquet" else frame.to_csv(file, sep="\t" if suffix == "tsv" else ";", index=False)
    source = load_source(str(file))
    assert (source.shape, len(source.train_labels), len(source.test_labels)) == ((1,), 8, 2)


@pytest.mark.parametrize(
    ("train", "test", "options", "message"),
    [
        (
            PATIENTS,
            PATIENTS.replace("60,o", "60,ab"),
            {},
            "column 'blood' holds 'ab' in row 3 of the test split, which no train",
        ),
        (
            PATIENTS.replace("40", ""),
            PATIENTS,
            {},
            "column 'age' has no value in 1 of 4 rows of the train split, first in row 1",
        ),
        (PATIENTS, PATIENTS.replace(",o,", ",,"), {}, "column 'blood' has no value in 1 of 4 rows of the test split.*row 3"),
        (PATIENTS, PATIENTS.replace("age", "years"), {}, "the test split has no column 'age', only years, blood, ill, clinic"),
        (PATIENTS, PATIENTS.replace("30", "old"), {}, "column 'age' holds text in the test split, but numbers elsewhere"),
        (PATIENTS.replace("30", "inf"), PATIENTS, {}, "column 'age' of the train split is infinite in row 0"),
        (PATIENTS, PATIENTS, {"label_column": ""}, r"cannot tell the label column among .*; set data\.label_column"),
        (PATIENTS, PATIENTS, {"feature_columns": ["ages"]}, r"unknown data\.feature_columns 'ages': did you mean 'age'"),
        (PATIENTS, PATIENTS, {"feature_columns": ["ill"]}, r"data\.feature_columns names 'ill', which holds the labels"),
        (
            PATIENTS,
            PATIENTS,
            {"image_column": "blood"},
            "'blood' holds text and no encoded images: set data.tokens = 'characters'",
        ),
        (PATIENTS, PATIENTS, {"length": 5}, r"data\.length = 5: data\.tokens is not set: leave it out"),
        (
            PATIENTS.replace("yes", "0.5").replace("no", "0.25"),
            PATIENTS,
            {},
            "column 'ill' of labels holds real numbers: regression is not",
        ),
        (PATIENTS.replace("age", "blood"), PATIENTS, {}, "has two columns called 'blood': rename one"),
        ("1,2,0\n3,4,1\n", PATIENTS, {}, r"its first line holds numbers \(1, 2, 0\): write the columns' names there"),
        ("age,ill\n1,2,3\n", PATIENTS, {}, "no readable CSV file"),
    ],
)
def test_bad_tables_are_one_line(tmp_path: Path, train: str, test: str, options: dict[str, Any], message: str) -> None:
    path = write(tmp_path, train=train, test=test)
    with pytest.raises(InputError, match=message) as caught:
        load_source(path, **{"label_column": "ill", **options})
    assert "\n" not in str(caught.value)


def test_missing_values_are_filled_with_the_training_mean(tmp_path: Path) -> None:
    train = PATIENTS.replace("50,a", ",")
    path = write(tmp_path, train=train, test=PATIENTS.replace("30", ""))
    with pytest.warns(Notice, match="missing values are filled with the training mean: 2 of age, 1 of blood"):
        source = load_source(path, label_column="ill", missing="mean", feature_columns=["age", "blood"])
    mean = (30 + 40 + 60) / 3
    wanted = torch.tensor([mean, 1 / 3, 1 / 3, 1 / 3])
    assert torch.allclose(source.train_inputs[2], wanted), "of a category, how often it is each"  # type: ignore[index]
    assert source.test_inputs[0, 0] == pytest.approx(mean)  # type: ignore[index, call-overload]


def test_rows_with_missing_values_are_dropped(tmp_path: Path) -> None:
    path = write(tmp_path, train=PATIENTS.replace("40", ""), test=PATIENTS)
    with pytest.warns(Notice, match="1 of 4 rows of the train split miss a value and are left out"):
        source = load_source(path, label_column="ill", client_column="clinic", missing="drop", feature_columns=["age"])
    assert source.train_inputs.tolist() == [[30], [50], [60]]  # type: ignore[union-attr]
    assert (source.train_labels.tolist(), source.groups.tolist()) == ([0, 0, 1], [1, 0, 0])  # type: ignore[union-attr]


def test_files_called_after_clients_say_whose_rows_they_hold(tmp_path: Path) -> None:
    head = "age,label\n"
    path = write(tmp_path, hospital_2=head + "".join(f"{i},{i % 2}\n" for i in range(10)), hospital_1=head + "7,1\n8,0\n" * 5)
    with pytest.warns(Notice, match="its files are read as those of clients: hospital_1, hospital_2"):
        source = load_source(path)
    assert source.groups is not None
    owned = source.train_inputs[source.groups == 0].flatten()  # type: ignore[index, union-attr, call-overload]
    assert {*owned.tolist()} == {7, 8}
    write(tmp_path, hospital_1="years,label\n7,1\n")
    with pytest.raises(
        InputError, match=r"hospital_2\.csv has no column 'years', only age, label, fedkd_client: rename it there"
    ):
        load_source(path)


def test_columns_that_number_the_rows_are_no_features(tmp_path: Path) -> None:
    frame = pandas.DataFrame({"id": range(10), "x": [0.5 * i for i in range(10)], "label": [i % 2 for i in range(10)]})
    frame.to_csv(tmp_path / "all.csv")
    with pytest.warns(Notice, match=r"left out: '', 'id', which number the rows \(name them in data\.feature_columns"):
        assert load_source(str(tmp_path / "all.csv")).shape == (1,)
    assert load_source(str(tmp_path / "all.csv"), feature_columns=["id", "x"]).shape == (2,)


def test_a_column_of_different_texts_is_no_category(tmp_path: Path) -> None:
    frame = pandas.DataFrame({"x": range(60), "name": [f"patient {i}" for i in range(60)], "label": [i % 2 for i in range(60)]})
    frame.to_csv(tmp_path / "all.csv", index=False)
    with pytest.raises(InputError, match=r"'name' is no category: it holds 60 different texts in 60 rows: set data\.tokens"):
        load_source(str(tmp_path / "all.csv"))


def test_a_guess_of_the_labels_is_said_and_never_passes_over_their_name(tmp_path: Path) -> None:
    frame = pandas.DataFrame({"age": [i % 3 for i in range(10)], "income": [float(i) for i in range(10)]})
    frame.to_csv(tmp_path / "all.csv", index=False)
    with pytest.warns(Notice, match=r"its labels are column 'age', the only one that can be it \(data\.label_column\)"):
        assert load_source(str(tmp_path / "all.csv")).shape == (1,)
    frame.rename(columns={"income": "target"}).to_csv(tmp_path / "all.csv", index=False)
    with pytest.raises(InputError, match="column 'target' of labels holds real numbers: regression is not what fedkd does"):
        load_source(str(tmp_path / "all.csv"))


def test_numbers_of_any_type(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    columns = {
        "number": pyarrow.array([2**60 + 1] * 10),
        "yes": [True, False] * 5,
        "kind": pyarrow.array(["b", "a"] * 5).dictionary_encode(),
    }
    pyarrow.parquet.write_table(pyarrow.table({**columns, "label": [0, 1] * 5}), tmp_path / "all.parquet")
    with pytest.warns(Notice, match="kind"):
        source = load_source(str(tmp_path / "all.parquet"))
    assert source.features == ("number", "yes", "kind = a", "kind = b")
