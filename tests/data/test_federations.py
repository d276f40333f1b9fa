from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from fedkd.base.errors import InputError, Notice
from fedkd.data import Federation, Source

Federate = Callable[..., Federation]


def ids(*views: object) -> list[int]:
    return [row for view in views for row in view.indices.tolist()]  # type: ignore[attr-defined]


def test_every_image_is_in_exactly_one_place(toy: Source, federate: Federate) -> None:
    federation = federate(toy, 4, public=6, validation=4)
    assert federation.public is not None
    assert federation.validation is not None
    clients = [view(k) for k in range(4) for view in (federation.client_train, federation.client_test)]
    assert sorted(ids(federation.public, federation.validation, *clients)) == list(range(40))
    assert len(federation.public) == 6
    assert len(federation.validation) == 4
    assert sorted(ids(*clients[0::2])) == ids(federation.train), "train is all clients' training samples"
    assert sorted(federation.partition_table().sum(1).tolist()) == [7, 7, 8, 8]
    assert len(federation.test) == 8


def test_a_sample_is_the_image_and_label_of_its_id(toy: Source, federate: Federate) -> None:
    samples = federate(toy, 4).client_train(2)
    images, labels, rows = samples.take(torch.tensor([1, 0]))
    assert rows.tolist() == samples.indices[[1, 0]].tolist()
    assert images[:, 0, 0, 0].tolist() == rows.tolist(), "image i of the toy set is filled with i"
    assert labels.tolist() == [row % 4 for row in rows.tolist()]
    assert samples.inputs is toy.train_inputs, "pixels are shared"
    assert ids(samples.subset(torch.tensor([2]))) == [samples.indices[2].item()]


def test_a_seed_decides_everything(toy: Source, federate: Federate) -> None:
    def everything(seed: int) -> list[int]:
        federation = federate(toy, 4, public=6, seed=seed)
        views = [view(k) for k in range(4) for view in (federation.client_train, federation.client_test)]
        return ids(federation.public, *views)

    assert everything(0) == everything(0) != everything(1)


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.1, 1), (0.5, 5), (0.99, 9)])
def test_each_client_keeps_its_share_for_test_and_at_least_one_for_train(
    toy: Source, federate: Federate, share: float, count: int
) -> None:
    assert len(federate(toy, 4, client_test=share).client_test(0)) == count


def test_a_client_with_one_image_trains_on_it(toy: Source, federate: Federate) -> None:
    federation = federate(toy, 40, client_test=0.5)
    assert (len(federation.client_train(7)), len(federation.client_test(7))) == (1, 0)


def test_shared_clients_see_all_and_train_on_nobodys_test_samples(toy: Source, federate: Federate) -> None:
    federation = federate(toy, 3, "shared", client_test=0.25)
    assert ids(federation.client_train(0)) == ids(federation.client_train(2))
    assert len(federation.client_train(1)) == 30
    assert not set(ids(federation.client_train(0))) & set(ids(federation.client_test(1)))
    assert federation.partition_table().tolist() == [[10, 10, 10, 10]] * 3
    assert len(federation.train) == 30
    assert len(federate(toy, 100, "shared").client_train(99)) == 32, "more clients than images is no trouble here"


def test_public_labels_are_hidden_unless_asked_for(toy: Source, federate: Federate) -> None:
    hidden = federate(toy, 4, public=6).public
    shown = federate(toy, 4, public=6, public_labels=True).public
    assert hidden is not None
    assert shown is not None
    assert ids(hidden) == ids(shown)
    everyone = torch.arange(6)
    assert hidden.take(everyone)[1].tolist() == [-1] * 6
    assert shown.take(everyone)[1].tolist() == [row % 4 for row in ids(shown)]
    assert hidden.label_counts().tolist() == [0, 0, 0, 0]
    assert len(hidden.labelled()) == 0


def test_part_of_the_labels(toy: Source, federate: Federate) -> None:
    federation = federate(toy, 4, client_test=0.2, labelled=0.5)  # 8 train samples a client
    samples = federation.client_train(1)
    known = samples.labelled()
    assert (len(samples), len(known), samples.label_counts().sum().item()) == (8, 4, 4)
    assert known.take(torch.arange(4))[1].tolist() == [row % 4 for row in ids(known)]
    assert len(federation.train.labelled()) == 16
    assert federation.client_test(1).labelled() is not None
    assert len(federation.client_test(1).labelled()) == 2, "tests keep their labels"
    complete = federate(toy, 4).client_train(1)
    assert complete.labelled() is complete


def test_train_limit_comes_first(toy: Source, federate: Federate) -> None:
    federation = federate(toy, 2, train_limit=10, public=4, validation=2, client_test=0.0)
    assert (len(federation.client_train(0)), len(federation.client_train(1))) == (2, 2)
    assert len(federate(toy, 2, train_limit=1000, client_test=0.0).train) == 40


def test_public_order_depends_on_content_seed_and_round(toy: Source, federate: Federate) -> None:
    federation = federate(toy, 4, public=8)
    order = federation.public_order(0, 1)
    assert sorted(order.tolist()) == sorted(federation.public.indices.tolist())
    renamed = federate(replace(toy, name="elsewhere"), 4, public=8)
    assert torch.equal(renamed.public_order(0, 1), order)
    assert not torch.equal(federation.public_order(0, 2), order)
    assert not torch.equal(federation.public_order(1, 1), order)
    darker = federate(replace(toy, train_inputs=toy.train_inputs + 1), 4, public=8)
    assert not torch.equal(darker.public_order(0, 1), order)
    with pytest.raises(InputError, match="no public set"):
        federate(toy, 4).public_order(0, 1)


def test_a_public_set_from_another_source(toy: Source, federate: Federate) -> None:
    other = replace(toy, name="other", train_inputs=toy.train_inputs + 200)
    federation = federate(toy, 4, public=5, public_source=other, public_labels=True)
    assert federation.public is not None
    assert (federation.public.take(torch.arange(5))[0] >= 200).all()
    assert federation.public_content == other.content_hash
    assert federation.partition_table().sum() == 40, "nothing is held out of the clients' own images"
    assert torch.equal(federation.public.moments.mean, toy.moments.mean), "one normalisation for all"


def test_public_sources_that_do_not_fit(toy: Source, federate: Federate) -> None:
    other = replace(toy, name="other", train_inputs=toy.train_inputs + 200)
    with pytest.raises(InputError, match=r"public = 41, but .* has 40"):
        federate(toy, 4, public=41, public_source=other)
    with pytest.raises(InputError, match="say how many"):
        federate(toy, 4, public=0, public_source=other)
    small = replace(other, train_inputs=other.train_inputs[..., :2], test_inputs=other.test_inputs[..., :2])
    with pytest.raises(InputError, match=r"its samples are image \(1, 4, 2\), those of 'toy' image \(1, 4, 4\)"):
        federate(toy, 4, public=5, public_source=small)
    with pytest.raises(InputError, match="its classes are not those of 'toy'"):
        federate(toy, 4, public=5, public_labels=True, public_source=replace(other, classes=("p", "q", "r", "s")))


def test_a_public_source_that_holds_a_test_or_train_image_is_refused(toy: Source, federate: Federate) -> None:
    with pytest.raises(InputError, match="5 of its 5 public samples are also train or test samples"):
        federate(toy, 4, public=5, public_source=toy)
    one_alike = toy.train_inputs + 200
    one_alike[3] = toy.test_inputs[0]
    with pytest.raises(InputError, match="1 of its 40 public samples"):
        federate(toy, 4, public=40, public_source=replace(toy, name="other", train_inputs=one_alike))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clients": 41}, r"data\.clients = 41, but there are only 40"),
        ({"clients": 35, "public": 6}, r"data\.clients = 35, but there are only 34"),
        ({"clients": 0}, r"data\.clients = 0: must be at least 1"),
        ({"public": 40}, r"data\.public = 40 .* leave no training sample"),
        ({"public": -1}, r"data\.public = -1: must not be negative"),
        ({"train_limit": 5, "validation": 5}, r"data\.validation = 5 leave no training sample"),
        ({"client_test": 1.0}, r"data\.client_test = 1\.0"),
        ({"labelled": 1.5}, r"data\.labelled = 1\.5"),
    ],
)
def test_impossible_wishes_are_refused_at_once(
    toy: Source, federate: Federate, changes: dict[str, float], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        federate(toy, **({"clients": 4} | changes))
    assert "\n" not in str(caught.value)


def test_a_test_limit_takes_some_images_of_the_global_test_set(toy: Source, federate: Federate) -> None:
    everything, some = federate(toy, 4), federate(toy, 4, test_limit=3)
    assert len(everything.test) == len(toy.test_inputs)
    assert len(some.test) == 3
    assert set(some.test.indices.tolist()) <= set(everything.test.indices.tolist())
    assert not torch.equal(some.test.indices, federate(toy, 4, test_limit=3, seed=5).test.indices)


def test_images_without_a_label_are_dealt_out_and_never_tested_on(toy: Source, federate: Federate) -> None:
    hidden = torch.arange(40) % 5 == 0  # 8 of 40
    labels = torch.where(hidden, -1, toy.train_labels)
    tests = torch.tensor([-1, 1, 2, 3, 0, 1, 2, 3])
    source = replace(toy, train_labels=labels, test_labels=tests)
    with pytest.warns(Notice) as said:
        federation = federate(source, 4, validation=8, client_test=0.25)
    notes = [str(note.message) for note in said]
    assert "8 of 40 training samples have no label (-1)" in notes[0]
    assert "1 of 8 test samples have no label (-1) and are left out" in notes[1]
    assert ids(federation.test) == list(range(1, 8))
    assert federation.validation is not None
    assert not hidden[federation.validation.indices].any()
    assert not any(hidden[federation.client_test(client).indices].any() for client in range(4))
    assert federation.unlabelled.sum() == 8
    assert federation.partition_table().sum() == 40 - 8 - 8
    assert len(federation.train) - len(federation.train.labelled()) == 8
    assert federation.unheld == 0
    with pytest.raises(InputError, match=r"data\.validation = 33, but only 32 labelled samples are left for it"):
        federate(source, 4, validation=33)


@pytest.mark.parametrize("name", ["dirichlet", "pathological", "shard", "linear", "continuous", "iid"])
def test_unlabelled_images_follow_every_partition(toy: Source, federate: Federate, name: str) -> None:
    arguments = {
        "dirichlet": {"alpha": 1.0, "min_partition_size": 1},
        "pathological": {"num_classes_per_partition": 2},
        "shard": {"num_shards_per_partition": 2},
        "continuous": {"strictness": 0.5},
    }
    source = replace(toy, train_labels=torch.where(torch.arange(40) < 16, -1, toy.train_labels))
    with pytest.warns(Notice):
        federation = federate(source, 4, name, arguments=arguments.get(name, {}))
    held = [row for client in range(4) for row in ids(federation.client_train(client), federation.client_test(client))]
    assert sorted(held) == list(range(40))
    if name not in ("linear", "iid"):
        assert federation.unlabelled.tolist() == [4, 4, 4, 4], "what has no label is dealt out evenly"


def test_part_of_the_labels_is_a_share_of_the_labelled(toy: Source, federate: Federate) -> None:
    source = replace(toy, train_labels=torch.where(torch.arange(40) < 20, -1, toy.train_labels))
    with pytest.warns(Notice):
        federation = federate(source, 1, labelled=0.5, client_test=0.0)
    assert (len(federation.client_train(0)), len(federation.client_train(0).labelled())) == (40, 10)


def test_one_class_is_nothing_to_tell_apart(toy: Source, federate: Federate) -> None:
    with pytest.raises(InputError, match=r"'toy': all training samples are of one class, 'c': there is nothing to tell apart"):
        federate(replace(toy, train_labels=torch.full((40,), 2)), 4)
    with pytest.raises(InputError, match=r"no training sample has a label"):
        federate(replace(toy, train_labels=torch.full((40,), -1)), 4)


def test_images_that_no_client_holds_are_counted_and_said(toy: Source, federate: Federate) -> None:
    federation = federate(toy, 3, "shard", arguments={"shard_size": 4, "num_shards_per_partition": 3}, train_limit=38)
    with pytest.warns(Notice, match=r"data\.partition leaves 2 of 38 samples with no client"):
        assert federation.unheld == 2
    assert federation.partition_table().sum() == 36
    assert federate(toy, 3, "shared").unheld == 0
