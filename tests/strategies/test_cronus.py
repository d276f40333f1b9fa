"""Cronus: a robust mean of probabilities, learnt beside one's own samples."""

from __future__ import annotations

import math

import pytest
import torch
from fedkd.strategies.cronus import Cronus, train_on_both
from public_runs import client_of, few_samples, server_of, tiny

from fedkd import Batch, Knowledge, Split, simulate
from fedkd.experiment.algorithm.train import Draw
from fedkd.losses import cross_entropy_loss, soft_cross_entropy
from fedkd.methods.public_distillation import predict_public, stacked_probabilities


def uploads_of(*tables: torch.Tensor) -> dict[int, Knowledge]:
    return {k: Knowledge.of("probabilities", {"probabilities": table}) for k, table in enumerate(tables)}


def answer(strategy: Cronus, uploads: dict[int, Knowledge]) -> torch.Tensor:
    return strategy.server_update(server_of(tiny(strategy)), uploads).tensors["probabilities"]


def honest(count: int) -> list[torch.Tensor]:
    """Clients that nearly agree on class 0 of 3."""
    rng = torch.Generator().manual_seed(0)
    return [torch.tensor([[0.8, 0.1, 0.1]]).log().add(0.1 * torch.randn(1, 3, generator=rng)).softmax(1) for _ in range(count)]


def test_without_outliers_the_filter_is_the_mean() -> None:
    uploads = uploads_of(*honest(5))
    assert torch.allclose(answer(Cronus(), uploads), answer(Cronus(aggregate="mean"), uploads), atol=1e-6)


@pytest.mark.parametrize("name", ["median", "trimmed_mean", "geometric_median", "spectral_filter"])
def test_one_liar_in_five_hardly_moves_the_answer(name: str) -> None:
    liar = torch.tensor([[0.0, 0.0, 1.0]])
    robust, plain = (answer(Cronus(aggregate=n), uploads_of(*honest(4), liar)) for n in (name, "mean"))
    truth = stacked_probabilities(uploads_of(*honest(4))).mean(0)
    assert (robust - truth).abs().max() < 0.05 < 0.15 < (plain - truth).abs().max()
    assert torch.allclose(robust.sum(1), torch.ones(1))


@pytest.mark.recomputed("cronus", by="formula")
def test_own_and_public_samples_are_mixed_in_proportion() -> None:
    """16 own and 30 public samples, batches of 23: 8 and 15 of each, twice; at next to no learning rate, as by hand."""
    client = client_of(tiny("cronus", train={"batch_size": 23, "lr": 1e-9}))
    net, data, public = client.net(), client.train, client.public_subset(round=0)
    labels = torch.eye(10)[torch.arange(30) % 10]
    parts = train_on_both(net, data, public, labels)
    own, shared = predict_public(net, data), predict_public(net, public)
    truth = data.samples.labels[data.samples.indices]
    assert parts["cross_entropy"] == pytest.approx(8 / 23 * float(cross_entropy_loss(own, truth)), abs=1e-5)
    assert parts["distillation"] == pytest.approx(15 / 23 * float(soft_cross_entropy(shared, labels)), abs=1e-5)
    assert parts["loss"] == pytest.approx(parts["cross_entropy"] + parts["distillation"])


@pytest.mark.parametrize(
    ("own", "public", "size", "steps"), [(3, 30, 8, 4), (16, 5, 4, 5), (16, 30, 64, 1), (9, 16, 8, 3), (1, 1, 8, 1)]
)
def test_every_sample_comes_once_an_epoch_in_as_many_steps_as_one_pool_would_take(
    own: int, public: int, size: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 33, 21, 46, 25 and 2; a last batch of one sample alone joins the one before it."""
    client = client_of(tiny("cronus", train={"batch_size": size, "epochs": 2}))
    data, shared = (split.samples.subset(torch.arange(n)) for split, n in ((client.train, own), (client.public, public)))
    taken: dict[str, list[list[int]]] = {"own": [], "public": []}
    batch = Split.batch

    def watched(self: Split, draw: Draw) -> Batch:
        made = batch(self, draw)
        taken["own" if self.samples is data else "public"].append(made.ids.tolist())
        return made

    monkeypatch.setattr(Split, "batch", watched)
    labels = torch.full((public, 10), 0.1)
    found = train_on_both(client.net(), client.split(data), client.split(shared), labels)
    assert all(math.isfinite(part) for part in found.values())
    for name, samples in (("own", data), ("public", shared)):
        batches, ids = taken[name], sorted(samples.indices.tolist())
        assert len(batches) == 2 * steps
        for epoch in (batches[:steps], batches[steps:]):
            assert sorted(id for each in epoch for id in each) == ids
    sizes = [len(a) + len(b) for a, b in zip(taken["own"], taken["public"], strict=True)]
    assert max(sizes) <= size + 1


def test_what_the_others_say_moves_the_net() -> None:
    strategy, predictions = Cronus(), []
    for label in (0, 1):
        client = client_of(tiny(strategy))
        table = torch.nn.functional.one_hot(torch.full((30,), label), 10).float()
        upload = strategy.client_update(client, Knowledge.of("probabilities", {"probabilities": table}))
        assert upload.metrics["distillation"] > 0
        predictions.append(upload.tensors["probabilities"])
    assert bool((predictions[0][:, 0] > predictions[1][:, 0]).all())


def test_only_the_last_local_round_and_those_after_it_send() -> None:
    """4 P C bytes, a client and round: 20 samples, 10 classes, 2 clients."""
    rows = simulate(tiny(Cronus(local_rounds=2, public_samples=20), rounds=4)).metrics
    assert [row["bytes_up"] for row in rows] == [0, 0, 1600, 1600, 1600]
    assert [row["bytes_down"] for row in rows] == [0, 0, 0, 1600, 1600]
    assert ["distillation" in row for row in rows] == [False, False, False, True, True]


def test_an_upload_of_a_local_round_that_comes_late_says_nothing() -> None:
    uploads = {**uploads_of(*honest(2)), 7: Knowledge()}
    assert torch.equal(answer(Cronus(), uploads), answer(Cronus(), uploads_of(*honest(2))))


@pytest.mark.slow
def test_mixing_in_what_all_say_beats_training_alone() -> None:
    """Mean accuracy of the clients' nets on 359 test digits, seed 1 (0, 2): 0.74 (0.69, 0.62), against 0.65 (0.65, 0.55) of
    twice as many rounds alone.
    """
    mixed = simulate(few_samples("cronus", seed=1)).metrics[-1]["accuracy"]
    assert mixed > simulate(few_samples("local", rounds=20, seed=1)).metrics[-1]["accuracy"] + 0.04
