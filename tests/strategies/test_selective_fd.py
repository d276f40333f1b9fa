"""Selective-FD: densities that are solved for, clients that answer about some samples, a server that keeps clear answers."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from fedkd.strategies.dsfl import DSFL
from fedkd.strategies.selective_fd import SelectiveFD, density_ratio, kernel, median_distance, packed, unclear
from public_runs import client_of, few_samples, server_of, tiny
from torch import Tensor

from fedkd import InputError, Knowledge, simulate
from fedkd.methods.public_distillation import predict_public
from fedkd.testing.kinds_of_samples import LITTLE


def normal(count: int, dimensions: int, *, seed: int, deviation: float = 1.0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return deviation * torch.randn(count, dimensions, generator=rng, dtype=torch.float64)


def uniform(count: int, dimensions: int, *, seed: int) -> Tensor:
    """In a box from -1/2 to 1/2."""
    return torch.rand(count, dimensions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 0.5


def test_of_equal_densities_the_ratio_is_one() -> None:
    known, auxiliary, asked = (uniform(400, 1, seed=seed) for seed in (0, 1, 2))
    torch.testing.assert_close(density_ratio(asked, known, auxiliary, width=0.3).mean().item(), 1.0, rtol=0, atol=0.1)
    alike = density_ratio(asked, known, known, width=0.3)  # the very same samples
    assert (alike - 1).abs().max() < 0.35


def test_the_ratio_is_high_where_the_samples_are_and_the_system_is_solved() -> None:
    """A normal of deviation 0.1 over a box of length 1: 3.99 times the uniform density at its middle, 0 at the ends.

    Multiplied by its matrix instead, as in the demo, the ends would be far above 0.
    """
    known, auxiliary = normal(500, 1, seed=0, deviation=0.1), uniform(1000, 1, seed=1)
    asked = torch.tensor([[-0.45], [0.0], [0.45]], dtype=torch.float64)
    low, high, other = density_ratio(asked, known, auxiliary, width=0.1).tolist()
    assert 2.0 < high < 4.5 and abs(low) < 0.1 and abs(other) < 0.1


@pytest.mark.recomputed("selective_fd", by="hand")
def test_the_ratio_by_hand_for_one_sample_of_each() -> None:
    """n = m = 1, lambda = 1: a = -k / 2 with k = K(x, y) = exp(-1/2), and r(x) = 1 - k^2 / 2 at x, k - k / 2 at y."""
    x, y = torch.zeros(1, 1), torch.ones(1, 1)
    k = float(torch.tensor(-0.5).exp())
    assert kernel(x, y, 1.0).item() == pytest.approx(k)
    found = density_ratio(torch.cat([x, y]), x, y, width=1.0)
    assert found.tolist() == pytest.approx([1 - k * k / 2, k / 2])


def test_distances_of_samples_that_are_all_the_same_or_one() -> None:
    assert median_distance(torch.zeros(4, 3)) == median_distance(torch.zeros(1, 3)) == 1.0
    assert median_distance(torch.tensor([[0.0, 0.0], [3.0, 4.0]])) == 5.0


def rows(*shares: float) -> Tensor:
    return torch.tensor([*shares, *[0.0] * (10 - len(shares))])


def kept(strategy: SelectiveFD, uploads: dict[int, Knowledge]) -> tuple[list[int], Tensor]:
    said = strategy.server_update(server_of(tiny(strategy)), uploads)
    return said.tensors["places"].tolist(), said.tensors["probabilities"]


@pytest.mark.recomputed("selective_fd", by="hand")
def test_each_sample_is_the_mean_of_who_answered_and_nobody_else() -> None:
    uploads = {
        0: packed(torch.stack([rows(1.0), rows(0.0, 1.0)]), torch.tensor([3, 7])),
        1: packed(torch.stack([rows(0.0, 0.4, 0.6), rows(0.5, 0.5)]), torch.tensor([7, 29])),
    }
    places, means = kept(SelectiveFD(), uploads)
    assert places == [3, 7, 29]
    assert torch.allclose(means, torch.stack([rows(1.0), rows(0.0, 0.7, 0.3), rows(0.5, 0.5)]))


@pytest.mark.recomputed("selective_fd", by="hand")
def test_answers_that_are_not_clear_enough_are_dropped() -> None:
    """|onehot - p|: 0 of a certain one, 0.6 of (0.7, 0.3), 1 of (0.5, 0.5), 1.8 of a uniform one."""
    table = torch.stack([rows(1.0), rows(0.7, 0.3), rows(0.5, 0.5), torch.full((10,), 0.1)])
    assert unclear(table).tolist() == pytest.approx([0.0, 0.6, 1.0, 1.8])
    uploads = {0: packed(table, torch.arange(4))}
    for cut, expected in ((0.0, [0]), (0.7, [0, 1]), (1.01, [0, 1, 2]), (2.0, [0, 1, 2, 3])):
        assert kept(SelectiveFD(ambiguity=cut), uploads)[0] == expected


@pytest.mark.slow
def test_with_nothing_cut_it_is_dsfl_of_a_plain_mean() -> None:
    settings = {"rounds": 2, "train": {"epochs": 2, "lr": 0.1}, "data": {"train_limit": 100}}
    mine = simulate(tiny(SelectiveFD(quantile=0.0), **settings))
    theirs = simulate(tiny(DSFL(sharpening="power", exponent=1.0), **settings))
    for ours, other in zip(mine.metrics[1:], theirs.metrics[1:], strict=True):
        assert ours["client_accuracy"] == other["client_accuracy"]
        for part in ("cross_entropy", "distillation"):
            assert ours[part] == pytest.approx(other[part], rel=1e-4)


def test_a_client_selects_once_and_the_more_the_lower_its_cut() -> None:
    strategy = SelectiveFD()
    client = client_of(tiny(strategy))
    before = strategy._selected(client, client.train, client.public_subset())
    client.round = 2  # in which the public samples come in another order
    after = strategy._selected(client, client.train, client.public_subset())
    ids = [client.public_subset(round=round).samples.indices for round in (1, 2)]
    assert sorted(ids[0][before].tolist()) == sorted(ids[1][after].tolist())
    assert client.memory.tensor("answers").shape == (30,)
    shares = []
    for quantile in (0.0, 0.1, 0.9):
        client = client_of(tiny(strategy))
        chosen = SelectiveFD(quantile=quantile)._selected(client, client.train, client.public_subset())
        shares.append(float(chosen.float().mean()))
    assert shares[0] == 1.0 >= shares[1] > shares[2]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Classes")
def test_a_client_answers_about_its_own_classes_rather_than_others() -> None:
    strategy, found = SelectiveFD(), []
    data = {"clients": 5, "partition": "pathological", "num_classes_per_partition": 2, "train_limit": 1300, "public": 500}
    experiment = tiny(strategy, data=data)
    for id in range(5):
        client = client_of(experiment, id)
        labels = client.federation.source.train_labels
        public = client.public_subset()
        own = torch.isin(labels[public.samples.indices], labels[client.train.samples.indices])
        chosen = strategy._selected(client, client.train, public).float()
        found.append((float(chosen[own].mean()), float(chosen[~own].mean())))
    own, other = torch.tensor(found).mean(0).tolist()
    assert own > 0.6 and own > other + 0.2


def test_what_is_kept_moves_the_net_and_nothing_kept_leaves_it() -> None:
    strategy, predictions = SelectiveFD(), []
    for label in (0, 1, None):
        client = client_of(tiny(strategy))
        strategy.client_update(client, Knowledge())
        before = predict_public(client.net(), client.public_subset())
        client.exchange = 1
        places = torch.arange(0 if label is None else 20)
        table = torch.nn.functional.one_hot(torch.full((len(places),), label or 0), 10).float()
        upload = strategy.client_update(client, packed(table, places))
        after = predict_public(client.net(), client.public_subset())
        assert ("distillation" in upload.metrics) == (label is not None)
        assert torch.equal(before, after) == (label is None)
        predictions.append(after.softmax(1)[:, 0])
    assert bool((predictions[0] > predictions[1]).all())


@pytest.mark.slow
def test_a_message_is_as_long_as_what_is_answered_and_kept() -> None:
    """4 C + 4 bytes a sample, 10 classes: of those that each of 2 clients answers, and of those kept, to both."""
    strategy = SelectiveFD(public_per_round=20)
    row = simulate(tiny(strategy)).metrics[1]
    clients = [client_of(tiny(strategy), id) for id in (0, 1)]
    chosen = torch.stack([strategy._selected(each, each.train, each.public_subset(20)) for each in clients])
    assert 0 < chosen.sum() < 40
    assert row["bytes_up"] == 44 * int(chosen.sum())
    assert row["bytes_down"] == 2 * 44 * int(chosen.any(0).sum())
    assert row["server_answered"] == pytest.approx(float(chosen.float().mean()))
    assert row["server_kept"] == pytest.approx(float(chosen.any(0).float().mean()))


@pytest.mark.parametrize(
    ("places", "reason"), [([4, 4], "do not ascend"), ([7, 3], "do not ascend"), ([3, 30], "about sample 30 of 30")]
)
def test_an_upload_that_contradicts_itself_is_refused(places: list[int], reason: str) -> None:
    honest = packed(torch.full((2, 10), 0.1), torch.tensor([3, 29]))
    server = server_of(tiny("selective_fd"))
    SelectiveFD().check_upload(server, honest)
    changed = {**honest.tensors, "places": torch.tensor(places, dtype=torch.int32)}
    with pytest.raises(ValueError, match=reason):
        SelectiveFD().check_upload(server, dataclasses.replace(honest, tensors=changed))


def test_samples_without_distances_are_refused_unless_nothing_is_selected() -> None:
    texts = LITTLE["texts"]
    settings: dict[str, Any] = {"nets": texts.net, "net_options": {texts.net: texts.options}}
    data = {"source": texts.source, "train_limit": 0, "public": 20}
    with pytest.raises(InputError, match=r"tokens.* have none: set strategy\.quantile = 0"):
        simulate(tiny("selective_fd", **settings, data=data))
    assert simulate(tiny(SelectiveFD(quantile=0.0), **settings, data=data)).metrics[1]["clients_ok"] == 2


@pytest.mark.slow
def test_answering_selectively_beats_training_alone() -> None:
    """Mean accuracy of the clients' nets on the test digits, seed 0, against twice as many rounds alone."""
    alone = simulate(few_samples("local", rounds=20)).metrics[-1]["accuracy"]
    assert simulate(few_samples("selective_fd")).metrics[-1]["accuracy"] > alone + 0.05
