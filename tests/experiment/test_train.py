"""The one training loop, by hand where a hand can follow."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedkd import Batch, Split, fit, predict
from fedkd.base.errors import TrainingError
from fedkd.base.randomness import generator
from fedkd.data import KINDS, Moments, Samples
from fedkd.experiment.algorithm.sections import Training
from fedkd.experiment.algorithm.train import Draw
from fedkd.experiment.algorithm.work import Work
from fedkd.losses import cross_entropy_loss

CPU = torch.device("cpu")
PLAIN = {"momentum": 0.0, "weight_decay": 0.0}
PLAIN_PIXELS = Moments(torch.zeros(1), torch.ones(1))


def split(values: list[int], seed: int = 0, **settings: Any) -> Split:
    """Images of one pixel, sample i of value ``values[i]`` and label i % 2, not scaled: mean 0, standard deviation 1/255."""
    images = torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1)
    labels = torch.arange(len(values)) % 2
    samples = Samples(
        images, labels, torch.arange(len(values)), KINDS["image"], Moments(torch.zeros(1), torch.full((1,), 1 / 255)), classes=2
    )
    training = Training(**{**PLAIN, **settings})
    work = Work(training, training.lr, CPU, "fedx", "client 3, round 7")
    return Split(samples, work, lambda purpose: generator(seed, purpose))


class Weight(nn.Module):
    """One weight w, at first 1; its output is w times the pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return self.w * images.flatten()


def mean_output(net: Weight, batch: Batch) -> dict[str, Tensor]:
    """Its gradient is the mean pixel of the batch."""
    return {"output": net(batch.inputs).mean()}


def seen(data: Split, **options: Any) -> list[list[int]]:
    """The sample ids of each batch that ``fit`` trains on."""
    batches: list[list[int]] = []

    def loss(net: Weight, batch: Batch) -> dict[str, Tensor]:
        batches.append(batch.ids.tolist())
        return mean_output(net, batch)

    fit(Weight(), data, loss, **options)
    return batches


def test_a_step_of_sgd() -> None:
    net = Weight()
    losses = fit(net, split([2, 4], lr=0.5), mean_output)
    assert net.w.item() == pytest.approx(1 - 0.5 * 3)  # the gradient is the mean pixel, 3
    assert losses == {"output": pytest.approx(3.0), "loss": pytest.approx(3.0)}


def test_the_parts_are_summed_and_each_is_logged() -> None:
    net = Weight()
    losses = fit(net, split([2, 4], lr=0.5), lambda net, batch: {"a": net.w, "b": 2 * net.w})
    assert net.w.item() == pytest.approx(1 - 0.5 * 3)
    assert losses == {"a": 1, "b": 2, "loss": 3}


def test_logged_means_weigh_samples_not_batches() -> None:
    """Batches of 3 and 2 samples; each logs its size: (3 x 3 + 2 x 2) / 5."""
    losses = fit(Weight(), split([1] * 5, batch_size=3), lambda net, batch: {"size": 0 * net.w + len(batch)})
    assert losses["size"] == pytest.approx(13 / 5)


def test_fewer_samples_than_a_batch_make_a_step() -> None:
    assert [sorted(ids) for ids in seen(split([1, 1, 1], batch_size=64))] == [[0, 1, 2]]
    assert seen(split([5], batch_size=64, epochs=2)) == [[0], [0]]


@pytest.mark.parametrize(("samples", "sizes"), [(8, [4, 4]), (9, [4, 5]), (10, [4, 4, 2])])
def test_a_last_batch_of_one_sample_joins_the_one_before(samples: int, sizes: list[int]) -> None:
    assert [len(ids) for ids in seen(split([1] * samples, batch_size=4))] == sizes


def test_each_epoch_sees_every_sample_once_in_an_order_of_its_own() -> None:
    batches = seen(split([1] * 20, batch_size=6), epochs=2)
    first, second = (list(itertools.chain(*half)) for half in (batches[:4], batches[4:]))
    assert Counter(first) == Counter(second) == Counter(range(20))
    assert first != second
    assert batches == seen(split([1] * 20, batch_size=6), epochs=2)
    assert batches != seen(split([1] * 20, batch_size=6, seed=1), epochs=2)


def test_passes_without_end_see_every_sample_once_each() -> None:
    data = split([1] * 10)
    draws = list(itertools.islice(data.passes(4, generator(0, "passes")), 9))
    assert [len(draw.positions) for draw in draws] == [4, 4, 2] * 3
    for first in (0, 3, 6):
        assert sorted(p for draw in draws[first : first + 3] for p in draw.positions.tolist()) == list(range(10))


def test_batches_drawn_elsewhere_are_taken_as_they_are() -> None:
    data = split([1] * 6, epochs=3)
    draws = [Draw(torch.tensor(positions), 0) for positions in ([5, 1], [0], [5, 5, 2])]
    assert seen(data, draws=draws) == [[5, 1], [0], [5, 5, 2]]


def test_arguments_win_over_settings() -> None:
    data = split([1] * 12, batch_size=6, epochs=3)
    assert len(seen(data)) == 6
    assert [len(ids) for ids in seen(data, epochs=1, batch_size=4)] == [4, 4, 4]


def test_the_gradients_norm_is_clipped() -> None:
    net = Weight()
    fit(net, split([2, 4], lr=0.5, clip=1.0), mean_output)
    assert net.w.item() == pytest.approx(1 - 0.5 * 1, abs=1e-5)


def test_after_step_sees_the_weights_of_each_step() -> None:
    net, weights = Weight(), []
    fit(net, split([1] * 4, lr=0.25, batch_size=2), mean_output, after_step=lambda: weights.append(net.w.item()))
    assert weights == pytest.approx([0.75, 0.5])


def test_momentum_weight_decay_and_adam_come_from_the_settings() -> None:
    def trained(**settings: Any) -> float:
        net = Weight()
        fit(net, split([1] * 4, batch_size=2, lr=0.25, **settings), mean_output)
        return net.w.item()

    assert trained(momentum=0.5) == pytest.approx(1 - 0.25 - 0.25 * 1.5)
    assert trained(momentum=0.5, nesterov=True) == pytest.approx(1 - 0.25 * 1.5 - 0.25 * 1.75)
    assert trained(weight_decay=0.4) == pytest.approx((1 - 0.25 * 1.4) - 0.25 * (1 + 0.4 * 0.65))
    assert trained(optimizer="adam") == pytest.approx(1 - 2 * 0.25)


def test_a_loss_that_is_not_finite_is_placed() -> None:
    """Eight samples in batches of four, two epochs; the third step, the first of epoch 2, goes wrong."""
    steps = itertools.count(1)

    def loss(net: Weight, batch: Batch) -> dict[str, Tensor]:
        return {"good": net.w * 2, "bad": net.w * (float("nan") if next(steps) == 3 else 1)}

    with pytest.raises(TrainingError) as caught:
        fit(Weight(), split([1] * 8, batch_size=4, epochs=2, lr=1e-9), loss)
    where, _, what = str(caught.value).partition(": ")
    assert where == "client 3, round 7, epoch 2, batch 1"
    assert what == "the loss is not finite (good 2, bad nan, loss nan); lower train.lr or set train.clip"


def test_no_samples_are_an_error() -> None:
    with pytest.raises(TrainingError, match="client 3, round 7: there are no samples to train on"):
        fit(Weight(), split([]), mean_output)


def test_bfloat16_computes_in_half_and_keeps_weights_whole() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    dtypes = []

    def loss(net: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        logits = net(batch.inputs)
        dtypes.append(logits.dtype)
        return {"cross_entropy": cross_entropy_loss(logits, batch.labels)}

    losses = fit(net, split(list(range(32)), precision="bf16", batch_size=8), loss)
    assert set(dtypes) == {torch.bfloat16}
    assert 0 < losses["loss"] < 10
    assert all(parameter.dtype == torch.float32 and parameter.isfinite().all() for parameter in net.parameters())


def test_batch_statistics_move_once_a_step() -> None:
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(1))
    net.eval()
    fit(net, split([1, 3] * 4, batch_size=4, epochs=3), lambda net, batch: {"output": net(batch.inputs).sum()})
    assert net[1].num_batches_tracked.item() == 6  # and training put it in train mode


def test_several_nets_train_as_one_module() -> None:
    nets = nn.ModuleDict({"a": Weight(), "b": Weight()})
    fit(nets, split([2, 4], lr=0.5), lambda nets, batch: {"a": mean_output(nets["a"], batch)["output"], "b": 2 * nets["b"].w})
    assert [nets[name].w.item() for name in "ab"] == pytest.approx([1 - 0.5 * 3, 1 - 0.5 * 2])


def test_a_given_optimizer_decides_what_moves() -> None:
    nets = nn.ModuleDict({"a": Weight(), "b": Weight()})
    optimizer = torch.optim.SGD(nets["a"].parameters(), lr=1.0)
    fit(nets, split([2, 4]), lambda nets, batch: {"sum": nets["a"].w + nets["b"].w}, optimizer=optimizer)
    assert [nets[name].w.item() for name in "ab"] == [0, 1]


def test_views_are_random_by_number_and_equal_on_each_call() -> None:
    images = torch.arange(2 * 64, dtype=torch.uint8).view(2, 1, 8, 8)
    data = split([0, 0])
    samples = Samples(images, torch.zeros(2, dtype=torch.int64), torch.arange(2), KINDS["image"], PLAIN_PIXELS, 2)
    batch = Batch(samples, torch.arange(2), data.work, seed=5)
    first, again, second = batch.view(1), batch.view(1), batch.view(2)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert torch.equal(batch.inputs, images / 255)
    assert not torch.equal(first, Batch(samples, torch.arange(2), data.work, seed=6).view(1))


def test_streams_of_a_split_are_endless_full_and_independent() -> None:
    data = split([1] * 10, batch_size=4)

    def ids(purpose: str) -> list[list[int]]:
        return [batch.ids.tolist() for batch in itertools.islice(data.stream(purpose), 6)]

    anchors = ids("anchors")
    assert all(len(batch) == 4 for batch in anchors)
    assert all(len({*first, *second}) == 8 for first, second in zip(anchors[::2], anchors[1::2], strict=True))  # an epoch each
    assert anchors == ids("anchors") != ids("negatives")
    batches = seen(data)
    next(data.stream("anchors"))
    assert seen(data) == batches  # taking from a stream moves no other
    assert len(next(split([1] * 3, batch_size=4).stream("anchors"))) == 3


def test_predictions_come_in_the_order_of_the_samples() -> None:
    data = split([9, 7, 5, 3, 1])
    values = predict(lambda images: images.flatten(1), data.samples, data.work, batch_size=2)
    assert values.flatten().tolist() == pytest.approx([9, 7, 5, 3, 1])
    subset = data.samples.subset(torch.tensor([3, 0]))
    assert predict(lambda images: images.flatten(1), subset, data.work).flatten().tolist() == pytest.approx([3, 9])
    half = split([9, 7], precision="bf16")
    assert predict(nn.Sequential(nn.Flatten(), nn.Linear(1, 2)), half.samples, half.work).dtype == torch.float32


def test_batches_side_by_side_give_the_same_bytes() -> None:
    data, net, pair = split(list(range(8)), precision="bf16"), nn.Sequential(nn.Flatten(), nn.Linear(1, 64)), Barrier(2)
    alone = predict(net, data.samples, data.work, batch_size=2)

    def meet(images: Tensor) -> Tensor:
        pair.wait(timeout=60)  # until another batch is here too
        assert torch.get_num_threads() == threads
        return net(images)

    threads = torch.get_num_threads()
    values = predict(meet, data.samples, data.work, batch_size=2, side_by_side=2)
    assert torch.equal(values, alone)
    assert values.is_inference()


def test_unlabelled_samples_are_left_out_where_labels_count() -> None:
    data = split([1, 2, 3, 4])
    hidden = Samples(data.samples.inputs, torch.tensor([0, -1, -1, 1]), data.samples.indices, KINDS["image"], PLAIN_PIXELS, 2)
    assert seen(Split(hidden, data.work, data.rng).labelled(), batch_size=4)[0] in ([0, 3], [3, 0])


def test_a_last_step_that_runs_away_is_told_too() -> None:
    """The loss before it was finite: the mean pixel, 3, which is the gradient too."""
    with pytest.raises(TrainingError, match=r"^client 3, round 7: its last step left a weight of 3e\+09; lower train.lr"):
        fit(Weight(), split([2, 4], lr=1e9), mean_output)
