"""Data of an experiment: given in any form, read again where they changed, drawn by a seed of their own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fedkd import Experiment, simulate
from fedkd.base.errors import InputError
from fedkd.data import Source


def blocks(classes: int = 2, count: int = 24) -> Source:
    """Images of 1x4x4 whose brightness is their class."""
    labels = torch.arange(count) % classes
    images = (labels * 50 + 20).to(torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4).contiguous()
    return Source("blocks", images, labels, images[:8], labels[:8], tuple("abcd"[:classes]))


def small(source: Any, **data: Any) -> Experiment:
    data = {"source": source, "clients": 2, "partition": "iid", **data}
    return Experiment(strategy="fedavg", rounds=1, nets="mlp", data=data)


def test_a_source_may_be_given_as_it_is_or_as_a_function() -> None:
    source = blocks()
    held, made = small(source), small(lambda: source)
    assert held.federation().source is source
    assert held == small(source), "the same source gives an equal experiment"
    first, second = (simulate(experiment).metrics[-1]["accuracy"] for experiment in (held, made))
    assert first == second
    assert small(source, channels="colour").federation().source.shape == (3, 4, 4)


def test_a_path_may_be_given_as_a_path(tmp_path: Path) -> None:
    for kind in ("ant", "bee"):
        (tmp_path / kind).mkdir()
        for number in range(5):
            Image.new("L", (2, 2), number).save(tmp_path / kind / f"{number}.png")
    assert small(tmp_path).federation().source.classes == ("ant", "bee")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            lambda: torch.utils.data.TensorDataset(torch.rand(4, 1, 2, 2)),
            r"the function': item 0 is tuple of 1, not a pair \(x, y\)",
        ),
        (lambda: None, r"data\.source: the function gives a NoneType; fedkd takes a fedkd\.data\.Source, \(X, y\) arrays"),
        (lambda path: blocks(), r"is called without arguments \(missing a required argument: 'path'\)"),
        (iter([(torch.rand(4), 0)]), r"data\.source: give a name, .* got list_iterator"),
        (3, r"data\.source: give a name, .* got int"),
    ],
)
def test_what_is_no_source_is_told_what_one_is(source: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        small(source).federation()
    assert "\n" not in str(caught.value)


def test_files_that_changed_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(kind: str, value: int) -> None:
        (tmp_path / "here" / kind).mkdir(parents=True, exist_ok=True)
        for number in range(5):
            Image.new("L", (2, 2), value + number).save(tmp_path / "here" / kind / f"{number}.png")

    write("ant", 0), write("bee", 100)
    monkeypatch.chdir(tmp_path)
    experiment = small("./here")
    first = experiment.federation()
    assert experiment.federation() is first, "nothing changed"
    write("cow", 200)
    assert small("./here").federation().source.classes == ("ant", "bee", "cow")
    write("cow", 150)  # as many files of the same size
    os.utime(tmp_path / "here/cow/0.png", ns=(1, 1))
    seen = experiment.federation().source
    assert 200 not in torch.unique(torch.cat([seen.train_inputs, seen.test_inputs])).tolist()
    (tmp_path / "there").mkdir()
    (tmp_path / "here").rename(tmp_path / "there/here")
    write("dog", 0), write("elk", 9)
    assert experiment.federation().source.classes == ("dog", "elk")
    monkeypatch.chdir(tmp_path / "there")
    assert experiment.federation().source.classes == ("ant", "bee", "cow"), "the same name in another folder"


def test_a_function_is_asked_anew_in_every_run_and_once_in_each() -> None:
    calls: list[int] = []

    def data() -> Source:
        calls.append(len(calls))
        return blocks(classes=2 + len(calls) // 2)

    experiment = small(data)
    seen = [len(simulate(experiment).metrics[-1]["class_accuracy"]) for _ in range(2)]
    assert (seen, calls) == ([2, 3], [0, 1])


def test_a_run_keeps_the_data_it_began_with(tmp_path: Path) -> None:
    for kind in ("ant", "bee"):
        (tmp_path / kind).mkdir()
        for number in range(5):
            Image.new("L", (4, 4), number).save(tmp_path / kind / f"{number}.png")
    changed = {"done": False}

    def change(row: dict[str, Any]) -> None:
        changed["done"] = True
        Image.new("L", (4, 4), 250).save(tmp_path / "ant/0.png")

    experiment = small(str(tmp_path)).replace(rounds=2)
    undisturbed = simulate(experiment).metrics
    disturbed = simulate(experiment, on_round=change).metrics
    assert changed["done"]
    assert [row["accuracy"] for row in disturbed] == [row["accuracy"] for row in undisturbed]


def test_a_seed_of_the_split_fixes_who_holds_what_and_nothing_else() -> None:
    def drawn(seed: int, split_seed: int) -> tuple[list[list[int]], Experiment]:
        experiment = small("digits", partition="dirichlet", public=20, split_seed=split_seed).replace(seed=seed)
        federation = experiment.federation()
        assert federation.public is not None
        return [
            samples.indices.tolist() for samples in (federation.client_train(0), federation.client_test(1), federation.public)
        ], experiment

    assert drawn(1, 7)[0] == drawn(2, 7)[0] == drawn(7, -1)[0] != drawn(1, -1)[0]
    experiment = drawn(1, 7)[1]
    assert Experiment.from_flat(experiment.to_flat()) == experiment
    assert (experiment.seed, experiment.data.split_seed) == (1, 7)
    with pytest.raises(InputError, match=r"data\.split_seed"):
        small("digits", split_seed=-2)


def test_an_earlier_name_of_a_key_is_still_read() -> None:
    experiment = Experiment(strategy="fedavg", data={"source": "digits", "natural_column": "writer"})
    assert experiment.data.client_column == "writer"
    assert "natural_column" not in experiment.to_toml()


def test_a_public_table_must_be_encoded_as_the_clients_are(tmp_path: Path) -> None:
    def write(name: str, third: str) -> str:
        lines = [f"{row},{('a', 'b', third)[row % 3]},{row % 2}" for row in range(60)]
        (tmp_path / name).write_text("\n".join(["x,blood,ill", *lines]) + "\n")
        return str(tmp_path / name)

    data = {"source": write("ours.csv", "o"), "label_column": "ill", "clients": 2, "partition": "iid", "public": 9}
    theirs = tmp_path / "theirs.csv"
    theirs.write_text("\n".join(["x,blood,ill", *(f"{row + 0.5},{'abo'[row % 3]},{row % 2}" for row in range(60))]) + "\n")
    experiment = Experiment(strategy="fedmd", nets="mlp", data=data | {"public_source": str(theirs)})
    public = experiment.federation().public
    assert public is not None
    assert len(public) == 9
    other = experiment.replace(data=data | {"public_source": write("other.csv", "c")})
    with pytest.raises(InputError, match=r"encoded otherwise than those of .* \('blood = c' where they have 'blood = o'\)"):
        other.federation()


def test_lists_of_columns_survive_a_config(tmp_path: Path) -> None:
    experiment = Experiment(strategy="fedavg", data={"source": "a.csv", "feature_columns": ["age", "blood"]})
    assert Experiment.from_flat(experiment.to_flat()).data.feature_columns == ("age", "blood")
    (tmp_path / "run.toml").write_text(experiment.to_toml())
    assert Experiment.from_toml(tmp_path / "run.toml").data == experiment.data


def test_an_app_takes_data_as_they_are() -> None:
    from fedkd.experiment.algorithm.functions import Functions

    flat = small("digits").to_flat() | {"data.source": "<function>"}
    given = (torch.arange(40.0).view(20, 2), torch.arange(20) % 2)
    assert Experiment.from_flat(flat, Functions(data=given)).federation().source.shape == (2,)
