"""Each client its own data, by hand: labels by name, moments put together, what a stranger's node may say."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkd.base.errors import InputError
from fedkd.data import KINDS, Source
from fedkd.data.kinds.kind import Spread, pooled
from fedkd.data.own import Agreement, Form, OwnAtClient, Told, agreed
from fedkd.data.own.classes import in_classes


def table(labels: list[int], classes: tuple[str, ...], tests: int = 0) -> Source:
    """Vectors of two numbers, the row's place and its square."""
    places = torch.arange(len(labels), dtype=torch.float32)
    inputs = torch.stack([places, places**2], 1)
    y = torch.tensor(labels)
    return Source("farm", inputs, y, inputs[:tests], y[:tests], classes)


def client(source: Source, agreement: Agreement | None = None, **changes: object) -> OwnAtClient:
    known = agreement or Agreement(source.classes)
    values = {
        "clients": 2,
        "public": None,
        "validation": None,
        "seed": 0,
        "client": 1,
        "test_share": 0.5,
        "labelled_share": 1.0,
    }
    return OwnAtClient(source=source, agreement=known, **{**values, **changes})  # type: ignore[arg-type]


def test_labels_are_counted_in_the_classes_of_all() -> None:
    mine = in_classes(table([0, 1, 1, -1], ("cow", "ant")), ("ant", "bee", "cow"))
    assert mine.train_labels.tolist() == [2, 0, 0, -1]
    assert mine.classes == ("ant", "bee", "cow")


def test_a_class_that_only_has_a_name_is_no_matter_and_one_with_samples_is_named() -> None:
    assert in_classes(table([0, 0], ("ant", "emu")), ("ant", "bee")).train_labels.tolist() == [0, 0]
    with pytest.raises(InputError, match=r"'farm' has classes emu, the run's are ant, bee: rename them there, or name them in"):
        in_classes(table([0, 1], ("ant", "emu")), ("ant", "bee"))


@pytest.mark.parametrize("kind", ["image", "image of real numbers", "vector"])
def test_moments_of_parts_are_those_of_the_whole(kind: str) -> None:
    rng = torch.Generator().manual_seed(0)
    inputs = torch.randint(256, (31, 2, 4, 4), dtype=torch.uint8, generator=rng)
    inputs = inputs if kind == "image" else inputs / 7
    inputs = inputs[:, :, 0, 0] if kind == "vector" else inputs
    measured = KINDS[kind.split()[0]]
    parts = [measured.spread(inputs, rows) for rows in torch.arange(31).split([3, 20, 8])]
    whole = measured.measure(inputs, torch.arange(31))
    assert all(torch.equal(one, other) for one, other in zip(pooled(parts).moments(), whole, strict=True))


def test_a_number_that_is_always_the_same_stays_as_it_is() -> None:
    parts = [Spread(rows, torch.tensor([5.0]).double(), torch.zeros(1).double()) for rows in (2, 7)]
    assert pooled(parts).moments().std.tolist() == [1.0]


def test_a_client_tells_numbers_only_and_knows_of_nobody_else() -> None:
    mine = client(table([0, 0, 1, 1, 1, -1], ("ant", "bee")))
    told = mine.told(counted=True)
    assert told.counts is not None
    assert (told.counts.train, told.counts.test, told.counts.labelled) == (4, 2, 3)
    assert told.counts.counts == (2, 3)
    assert told.counts.unlabelled == 1
    assert told.counts.mean == (2.5, 55 / 6)
    assert len(mine.client_train(1)) == 4
    for ask in (lambda: mine.client_train(0), lambda: mine.client_test(0), mine.partition_table, lambda: mine.test):
        with pytest.raises(LookupError):
            ask()


def test_a_test_split_of_the_clients_own_is_its_test() -> None:
    mine = client(table([0, 0, 1, 1], ("ant", "bee"), tests=3))
    assert (len(mine.client_train(1)), len(mine.client_test(1))) == (4, 3)


def test_what_is_told_comes_back_from_a_message() -> None:
    told = client(table([0, 1, 1], ("ant", "bee"))).told(counted=True)
    assert Told.from_facts(told.to_facts(), classes=2, counted=True) == told
    agreement = agreed(("ant", "bee"), [told, told], everyones_moments=True)
    assert Agreement.from_facts(agreement.to_facts()) == agreement
    assert agreement.most_labelled == 1
    assert Form.from_text(told.form.to_text()) == told.form
    assert str(told.form) == "vector float32 (2,)"


#: What a stranger's node may put in the place of a fact.
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63), st.floats(), st.text(max_size=8), st.lists(st.floats(), max_size=3)
)


@given(
    st.sampled_from(["form", "vocabulary", "train", "labelled", "test", "unlabelled", "rows", "counts", "mean", "variance"]),
    ODD,
)
def test_an_odd_fact_is_refused_or_means_what_it_says(name: str, odd: object) -> None:
    facts = {**client(table([0, 1, 1], ("ant", "bee"))).told(counted=True).to_facts(), name: odd}
    try:
        told = Told.from_facts(facts, classes=2, counted=True)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert told.to_facts()[name] == odd


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1]",
        '{"kind": "image", "tensors": [["", "uint8", [1000000, 1000000]]], "encoding": ""}',
        '{"kind": "image", "tensors": [["", "save", [1, 8, 8]]], "encoding": ""}',
        '{"kind": "image", "tensors": [["", "uint8", [-1, 8, 8]]], "encoding": ""}',
    ],
)
def test_a_form_that_no_sample_has_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        Form.from_text(text)


@given(st.dictionaries(st.sampled_from(["classes", "mean", "std", "vocabulary", "most_labelled"]), ODD))
def test_an_odd_agreement_is_refused_or_is_one(facts: dict[str, object]) -> None:
    try:
        read = Agreement.from_facts(facts)
    except InputError:
        return
    assert all(isinstance(name, str) for name in read.classes)
    assert len(read.mean) == len(read.std)


def test_the_server_hands_its_own_samples_out_and_nobody_elses() -> None:
    from fedkd.data.own import OwnAtServer

    source = table([0, 1, 1], ("ant", "bee"), tests=2)
    told = tuple(client(source).told(counted=True) for _ in range(2))
    agreement = agreed(source.classes, told, everyones_moments=True)
    values = {"clients": 2, "public": None, "validation": None, "seed": 0, "told": told}
    server = OwnAtServer(source=source, agreement=agreement, **values)  # type: ignore[arg-type]
    assert server.partition_table().tolist() == [[2, 3], [2, 3]]
    assert [held.train for held in server.holdings] == [3, 3]
    assert (len(server.test), len(server.train)) == (2, 3)
    with pytest.raises(LookupError):
        server.client_train(0)
    untold = replace(server, told=tuple(replace(each, counts=None) for each in told))
    assert (len(untold.holdings), untold.partition_hash, untold.partition_table().shape) == (0, "", (0, 2))


def test_what_is_not_counted_says_nothing_of_the_samples() -> None:
    """Under [privacy] two clients with samples of one form tell the same."""
    y = torch.tensor([0, 1])
    texts = [
        Source("text", torch.tensor([[1, 2], [0, most]]), y, torch.zeros(0, 2).long(), y[:0], ("a", "b")) for most in (3, 9)
    ]
    one, other = (client(source).told(counted=False) for source in texts)
    assert one == other
    assert one.to_facts().keys() == {"form", "vocabulary"}
