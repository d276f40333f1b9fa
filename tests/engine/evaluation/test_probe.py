"""Linear probe and weighted nearest neighbours."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fedkd.base.randomness import generator
from fedkd.engine.evaluation import probe as probe_module
from fedkd.engine.evaluation.probe import linear_probe, weighted_knn


def clusters(samples: int, seed: int, *, noise: float = 1.0) -> tuple[Tensor, Tensor]:
    """Features (N, 16) of 4 Gaussian classes and their labels (N,)."""
    centres = torch.randn(4, 16, generator=generator(0, "centres"))
    labels = torch.randint(4, (samples,), generator=generator(seed, "labels"))
    return centres[labels] + noise * torch.randn(samples, 16, generator=generator(seed, "noise")), labels


def accuracy(predictions: Tensor, labels: Tensor) -> float:
    return (predictions == labels).float().mean().item()


def test_the_probe_takes_the_step_that_autograd_takes() -> None:
    """One epoch of one batch: against nn.Linear, cross_entropy and Adam from the same weights."""
    features, labels = clusters(20, seed=1)
    start = linear_probe(features, labels, classes=4, generator=generator(0), epochs=0)
    linear = nn.Linear(16, 4)
    linear.weight.data, linear.bias.data = start.weight.clone(), start.bias.clone()
    adam = torch.optim.Adam(linear.parameters(), lr=1e-3, weight_decay=1e-6)
    nn.functional.cross_entropy(linear(features), labels).backward()
    adam.step()
    probe = linear_probe(features, labels, classes=4, generator=generator(0), epochs=1)
    torch.testing.assert_close(probe.weight, linear.weight.data)
    torch.testing.assert_close(probe.bias, linear.bias.data)
    torch.testing.assert_close(probe.logits(features), linear(features).detach())


def test_every_step_is_the_official_loops() -> None:
    """Three epochs with a short last batch, against nn.Linear, cross_entropy and torch's Adam on the same batches."""
    features, labels = clusters(70, seed=1)
    settings = {"lr": 0.05, "weight_decay": 0.1}  # large enough to tell
    rng = generator(0)
    start = torch.empty(4, 17).uniform_(-0.25, 0.25, generator=rng)  # weights, then biases, as linear_probe draws them
    linear = nn.Linear(16, 4)
    linear.weight.data, linear.bias.data = start[:, :-1].clone(), start[:, -1].clone()
    adam = torch.optim.Adam(linear.parameters(), **settings)
    for _ in range(3):
        for batch in torch.randperm(70, generator=rng).split(32):
            adam.zero_grad()
            nn.functional.cross_entropy(linear(features[batch]), labels[batch]).backward()
            adam.step()
    with torch.autocast("cpu", torch.bfloat16):  # a caller's, of no concern to float32
        probe = linear_probe(features, labels, classes=4, generator=generator(0), epochs=3, batch_size=32, **settings)
    torch.testing.assert_close(probe.weight, linear.weight.data, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(probe.bias, linear.bias.data, rtol=1e-4, atol=1e-5)


def test_the_probe_starts_as_nn_linear_does() -> None:
    probe = linear_probe(*clusters(9, seed=1), classes=4, generator=generator(0), epochs=0)
    bound = 1 / math.sqrt(16)
    assert 0.9 * bound < probe.weight.abs().max() <= bound
    assert 0 < probe.bias.abs().max() <= bound


@pytest.mark.slow
def test_the_probe_is_as_good_as_the_plain_loop() -> None:
    features, labels = clusters(1000, seed=1, noise=1.5)
    test_features, test_labels = clusters(2000, seed=2, noise=1.5)
    rng = generator(0, "plain")
    linear = nn.Linear(16, 4)
    adam = torch.optim.Adam(linear.parameters(), lr=1e-3, weight_decay=1e-6)
    for _ in range(50):
        for x, y in DataLoader(TensorDataset(features, labels), batch_size=64, shuffle=True, generator=rng):
            adam.zero_grad()
            nn.functional.cross_entropy(linear(x), y).backward()
            adam.step()
    plain = accuracy(linear(test_features).argmax(1), test_labels)
    probe = linear_probe(features, labels, classes=4, generator=generator(0), epochs=50)
    assert accuracy(probe.logits(test_features).argmax(1), test_labels) == pytest.approx(plain, abs=0.01)
    assert plain > 0.8


def test_the_probe_is_a_function_of_its_generator_and_of_nothing_global() -> None:
    data = clusters(70, seed=1)
    state = torch.get_rng_state()
    first, same, other = (linear_probe(*data, classes=4, generator=generator(seed), epochs=2).weight for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_probe_takes_features_of_any_type_and_leaves_them_alone() -> None:
    features, labels = clusters(10, seed=1)
    with torch.inference_mode():
        frozen = features.clone()
    probe = linear_probe(frozen, labels, classes=4, generator=generator(0), epochs=2)
    assert torch.equal(frozen, features)
    half = linear_probe(features.bfloat16(), labels, classes=4, generator=generator(0), epochs=2)
    assert half.weight.dtype == torch.float32
    torch.testing.assert_close(half.weight, probe.weight, rtol=0, atol=0.01)
    with torch.autocast("cpu", torch.bfloat16):
        assert probe.logits(features).dtype == torch.float32


def test_knn_by_hand() -> None:
    train = torch.tensor([[1.0, 0.0], [0.0, 5.0], [0.0, 9.0]])
    labels = torch.tensor([1, 2, 2])
    query = torch.tensor([[4.0, 3.0]])  # cosines 0.8, 0.6, 0.6: one vote of e^(0.8/t) against two of e^(0.6/t)
    knn = lambda temperature, neighbours: weighted_knn(  # noqa: E731
        train, labels, query, classes=3, temperature=temperature, neighbours=neighbours
    )
    break_even = 0.2 / math.log(2)
    assert knn(0.9 * break_even, 3).item() == 1
    assert knn(1.1 * break_even, 3).item() == 2
    assert knn(1.1 * break_even, 1).item() == 1


def test_knn_equals_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    (train, labels), (queries, _) = clusters(60, seed=1, noise=2.0), clusters(25, seed=2, noise=2.0)
    expected = []
    for query in queries.double():
        cosines = nn.functional.cosine_similarity(train.double(), query[None])
        votes = torch.zeros(4, dtype=torch.float64)
        for i in cosines.argsort(descending=True)[:15].tolist():
            votes[labels[i]] += math.exp(cosines[i] / 0.1)
        expected.append(int(votes.argmax()))
    assert weighted_knn(train, labels, queries, classes=4, neighbours=15).tolist() == expected
    monkeypatch.setattr(probe_module, "SIMILARITIES", 130)  # two queries at a time, the last alone
    assert weighted_knn(train, labels, queries, classes=4, neighbours=15).tolist() == expected
    monkeypatch.setattr(probe_module, "SIMILARITIES", 1)
    assert weighted_knn(train, labels, queries, classes=4, neighbours=15).tolist() == expected


def test_knn_is_right_on_separate_clusters_at_any_temperature() -> None:
    (train, labels), (queries, truth) = clusters(80, seed=1, noise=0.1), clusters(40, seed=2, noise=0.1)
    for temperature in (0.001, 0.1, 10.0):
        predicted = weighted_knn(train, labels, queries.bfloat16(), classes=4, temperature=temperature, neighbours=9)
        assert torch.equal(predicted, truth)


def test_nothing_to_learn_from_is_an_error() -> None:
    empty, labels = torch.empty(0, 3), torch.empty(0, dtype=torch.int64)
    with pytest.raises(ValueError, match="linear_probe: there are no features"):
        linear_probe(empty, labels, classes=2, generator=generator(0))
    with pytest.raises(ValueError, match="weighted_knn: there are no training features"):
        weighted_knn(empty, labels, torch.ones(1, 3), classes=2)
