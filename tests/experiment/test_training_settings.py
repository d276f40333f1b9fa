"""What [train] says beyond epochs and a rate: steps, accumulation, one's own optimisers, smoothing, weights, temperatures."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from grids.forgetful import ForgetfulGrid
from torch import nn

from fedkd import Experiment, InputError, simulate
from fedkd.experiment.algorithm.batches import batch_sizes, batches_a_round
from fedkd.experiment.algorithm.on_labels import cross_entropy, labelled_cross_entropy
from fedkd.experiment.algorithm.optimizer_state import optimizer_state, restore_optimizer
from fedkd.experiment.algorithm.sections import Training
from fedkd.experiment.algorithm.step import descend, make_optimizer
from fedkd.experiment.algorithm.work import Work
from fedkd.experiment.strategy_of_round import strategy_of

DATA = {"clients": 2, "partition": "iid", "train_limit": 80, "test_limit": 40}


def run(strategy: Any = "fedavg", grid: Any = None, **given: Any) -> list[dict[str, Any]]:
    data = DATA | ({"partition": "shared"} if strategy == "dml" else {}) | given.pop("data", {})
    history = simulate(Experiment(strategy=strategy, nets="mlp", data=data, **{"rounds": 1, **given}), grid)
    assert not any(row["clients_failed"] for row in history.metrics), history.clients
    return history.metrics


def work(**settings: Any) -> Work:
    return Work(Training(**settings), 0.1, torch.device("cpu"), "", "here")


# How many batches


@pytest.mark.parametrize(
    ("settings", "batches"),
    [({}, 4), ({"epochs": 3}, 12), ({"epochs": 0.5}, 2), ({"epochs": 2.5}, 10), ({"epochs": 0.01}, 1), ({"steps": 7}, 7)],
)
def test_batches_of_a_round(settings: dict[str, Any], batches: int) -> None:
    assert len(batch_sizes(32, 8)) == 4
    assert batches_a_round(32, Training(batch_size=8, **settings)) == batches
    assert batches_a_round(0, Training(**settings)) == 0


def test_whole_epochs_stay_whole_numbers() -> None:
    assert repr(Training(epochs=2.0).epochs) == "2"
    assert Experiment.from_flat(Experiment(train={"epochs": 0.5}).to_flat()).train.epochs == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fedavg", "dml", "codistillation"])
def test_as_many_steps_as_epochs_have_are_the_same_training(strategy: str) -> None:
    data = {"train_limit": 60, "client_test": 0.0}
    settings = ({"epochs": 2}, {"steps": 12 if strategy == "dml" else 6})
    by_epochs, by_steps = (run(strategy, data=data, train={"batch_size": 10, **how})[-1] for how in settings)
    assert by_epochs["loss"] == by_steps["loss"]


def test_epochs_do_nothing_beside_steps() -> None:
    with pytest.raises(InputError, match=r"train.epochs = 3 does nothing here: train.steps is 5, and takes its place"):
        Experiment(train={"epochs": 3, "steps": 5})


# Steps


def test_gradients_of_two_batches_make_the_step_of_one_of_both() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(8, 3), torch.arange(8) % 2
    nets = [nn.Linear(3, 2) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    one, two = (make_optimizer(net, work(accumulate=2, clip=0.1)) for net in nets)
    descend({"loss": F.cross_entropy(nets[0](x), y)}, one, work(clip=0.1))
    for place, rows in enumerate(torch.arange(8).split(4)):
        before = nets[1].weight.clone()
        descend({"loss": F.cross_entropy(nets[1](x[rows]), y[rows])}, two, work(clip=0.1), place=place, of=2)
        assert torch.equal(before, nets[1].weight) == (place == 0)
    torch.testing.assert_close(nets[0].weight, nets[1].weight)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_a_step_is_that_of_torch_to_the_bit_and_calls_the_hooks_hung_on_it(optimizer: str) -> None:
    x, y, called = torch.randn(8, 3), torch.arange(8) % 2, []
    nets = [nn.Linear(3, 2) for _ in range(3)]
    for net in nets[1:]:
        net.load_state_dict(nets[0].state_dict())
    plain, hooked, of_torch = (make_optimizer(net, work(optimizer=optimizer)) for net in nets)
    hooked.register_step_post_hook(lambda *_: called.append(1))
    for _ in range(3):
        for net, steps in zip(nets, (plain, hooked), strict=False):
            descend({"loss": F.cross_entropy(net(x), y)}, steps, work(optimizer=optimizer))
        of_torch.zero_grad()
        F.cross_entropy(nets[2](x), y).backward()
        of_torch.step()
    assert called == [1, 1, 1]
    assert all(torch.equal(nets[2].weight, net.weight) for net in nets)


def test_accumulation_takes_fewer_steps_and_is_refused_where_each_batch_is_an_exchange() -> None:
    plain, accumulated = (run(train={"batch_size": 10, "accumulate": n, "lr": 0.1})[-1]["accuracy"] for n in (1, 4))
    assert plain != accumulated
    with pytest.raises(InputError, match=r"train.accumulate: DML takes a step on each batch that its peers"):
        run("dml", train={"accumulate": 2})


def test_fp16_needs_a_gpu() -> None:
    with pytest.raises(InputError, match=r"train.precision: fp16 needs a GPU: set engine.num_gpus above 0, or take .bf16."):
        Experiment(train={"precision": "fp16"})


# Optimisers


MODULE = """
import torch


class Counting(torch.optim.SGD):
    # Steps counted by a number of Python's; the rate falls with them.
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state["steps"] = state.get("steps", 0) + 1
                parameter.data.sub_(parameter.grad, alpha=group["lr"] / state["steps"])


def optimizer(parameters, lr, weight_decay):
    return Counting(parameters, lr=lr, weight_decay=weight_decay)


def nothing(parameters, lr, weight_decay):
    return None


def two(parameters, lr):
    return torch.optim.SGD(parameters, lr=lr)


size = 3
"""


@pytest.fixture
def optimizers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "my_optimizers.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("my_optimizers", None)


def test_adamw_is_torchs() -> None:
    optimizer = make_optimizer(nn.Linear(2, 2), work(optimizer="adamw", weight_decay=0.1))
    assert type(optimizer) is torch.optim.AdamW
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.1, 0.1)


@pytest.mark.slow
@pytest.mark.usefixtures("optimizers")
def test_a_users_optimizer_trains_on_every_kind_of_grid_and_is_written_down(tmp_path: Path) -> None:
    given = {"train": {"optimizer": "my_optimizers:optimizer", "lr": 0.5}, "rounds": 2, "data": {"public": 20}}
    assert run("fedmd", **given)[-1]["accuracy"] == run("fedmd", ForgetfulGrid(), **given)[-1]["accuracy"]
    simulate(Experiment(strategy="fedavg", nets="mlp", data=DATA, rounds=1, train=given["train"]), out=tmp_path / "run")
    assert "state.get('steps', 0) + 1" in (tmp_path / "run" / "code" / "code-my_optimizers.optimizer.py").read_text()


def test_numbers_of_an_optimizers_state_are_kept() -> None:
    net = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    optimizer.state[net.weight] = {"steps": 3, "mean": torch.ones(1, 2)}
    other = torch.optim.SGD(net.parameters(), lr=0.1)
    restore_optimizer(other, optimizer_state(optimizer))
    assert other.state[net.weight]["steps"] == 3 and type(other.state[net.weight]["steps"]) is int
    assert torch.equal(other.state[net.weight]["mean"], torch.ones(1, 2))


@pytest.mark.usefixtures("optimizers")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("adamm", "'adamm' is unknown: did you mean 'adam'"),
        ("my_optimizers:optimiser", "the module has no 'optimiser': did you mean 'optimizer'"),
        ("my_optimizers:size", r"my_optimizers:size is a int, not a function: it takes \(parameters, lr, weight_decay\)"),
        ("my_optimizers:nothing", "my_optimizers:nothing gives a NoneType: it takes"),
        ("my_optimizers:two", r"my_optimizers:two fails \(.*\): it takes \(parameters, lr, weight_decay\) and returns"),
    ],
)
def test_what_is_no_optimizer_is_one_line_before_round_1(name: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        run(train={"optimizer": name})
    assert len(str(error.value).splitlines()) == 1


# Labels


def test_smoothing_and_weights_by_hand() -> None:
    logits, labels = torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1])
    log_p = logits.log_softmax(1)
    smoothed = -(0.95 * log_p[0, 0] + 0.05 * log_p[0, 1] + 0.95 * log_p[1, 1] + 0.05 * log_p[1, 0]) / 2
    torch.testing.assert_close(cross_entropy(logits, labels, None, 0.1), smoothed)
    weighted = -(3 * log_p[0, 0] + log_p[1, 1]) / 4
    torch.testing.assert_close(cross_entropy(logits, labels, torch.tensor([3.0, 1.0]), 0.0), weighted)
    some = labelled_cross_entropy(logits, torch.tensor([0, -1]), None, 0.0)
    torch.testing.assert_close(some, -log_p[0, 0] / 2)


@pytest.mark.slow
@pytest.mark.parametrize("setting", [{"label_smoothing": 0.3}, {"class_weights": "balanced"}])
@pytest.mark.parametrize("strategy", ["fedavg", "dml", "mean_teacher", "one", "byot"])
def test_both_reach_the_cross_entropy_of_local_training(strategy: str, setting: dict[str, Any]) -> None:
    plain, changed = (_loss(strategy, train) for train in ({}, setting))
    assert plain != changed


def _loss(strategy: str, train: dict[str, Any]) -> Any:
    data = {**DATA, "train_limit": 45, "partition": "shared" if strategy == "dml" else "iid"}
    net = {"cnn": {"channels": (2, 4), "hidden": 8}}
    experiment = Experiment(strategy=strategy, nets="cnn", net_options=net, rounds=1, data=data, train=train)
    return simulate(experiment).metrics[-1]["loss"]


@pytest.mark.parametrize("key", ["label_smoothing", "class_weights"])
def test_they_do_nothing_without_labels_and_that_is_told(key: str) -> None:
    value = 0.1 if key == "label_smoothing" else "balanced"
    with pytest.raises(InputError, match=f"train.{key} = .* does nothing here: fedx has no cross-entropy with labels"):
        Experiment(strategy="fedx", train={key: value})


# Temperature


def test_the_temperature_goes_evenly_to_its_last() -> None:
    strategy = {"name": "fedmd", "loss": "kd", "temperature": 4.0}
    experiment = Experiment(strategy=strategy, rounds=4, data={"public": 10}, train={"final_temperature": 1.0})
    assert [strategy_of(experiment, round).temperature for round in (0, 1, 2, 3, 4)] == [4, 4, 3, 2, 1]  # type: ignore[attr-defined]
    plain = experiment.replace(train={})
    assert strategy_of(plain, 3) is plain.strategy


@pytest.mark.slow
def test_it_is_that_of_the_round_at_clients() -> None:
    def losses(first: float, last: float) -> list[float]:
        strategy = {"name": "fedntd", "temperature": first}
        return [row["not_true"] for row in run(strategy, rounds=2, train={"final_temperature": last, "batch_size": 10})[1:]]

    falling, high, low = losses(4.0, 1.0), losses(4.0, 0.0), losses(1.0, 0.0)
    assert falling[0] == high[0] != low[0]
    assert falling[1] != high[1]


def test_where_the_temperature_does_nothing_its_last_does_not_either() -> None:
    strategy = {"name": "fedmd", "loss": "logit_mse"}
    with pytest.raises(InputError, match=r"train.final_temperature = 1.0 does nothing here: it counts only with strategy.loss"):
        Experiment(strategy=strategy, data={"public": 10}, train={"final_temperature": 1.0})


def test_a_strategy_without_a_temperature_says_so() -> None:
    with pytest.raises(InputError, match=r"train.final_temperature: FedAvg has no strategy.temperature to go there from"):
        Experiment(strategy="fedavg", train={"final_temperature": 1.0})
