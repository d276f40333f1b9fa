"""Engine `together`: the trainings of many clients as one give what the loop gives, and what cannot be one is told."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fedkd import Experiment, History, Notice, simulate
from fedkd.experiment.registry import strategies
from fedkd.grids import TogetherGrid
from fedkd.results.history import OF_ENGINE, TIMES
from fedkd.testing.trial import Trial

NAMES = sorted(strategies())
#: Those whose trainings must be one where clients agree.
MANY = (
    *("cskd", "dsfl", "fccl", "fccl_plus", "fd", "fedaux", "fedavg", "fedcache", "fedgen", "fedgh", "fedhkd"),
    *("fedlmd", "fedlmd_tf", "fedmrl", "fedmlb", "fedntd", "fedproto", "fedprox", "fedtgp", "lg_fedavg", "scarlet"),
)
#: Nets for those that cut them.
NETS = {"fedmlb": {"net_options": {"mlp": {"hidden": [12, 8]}}}}
#: Those whose servers search for samples by Adam, whose first steps go by signs: rounding in clients' nets grows there. How far
#: numbers may lie apart.
SEARCHING = dict.fromkeys(("co_boosting", "dense", "fedftg"), 0.1)
GPU = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")])


def experiment(**changes: Any) -> Experiment:
    """Six clients of 20 digits each, two epochs a round."""
    data = {"clients": 6, "train_limit": 120, "partition": "iid", "client_test": 0.0, **changes.pop("data", {})}
    train = {"batch_size": 8, "lr": 0.05, "epochs": 2, "momentum": 0.9, "weight_decay": 1e-3, **changes.pop("train", {})}
    nets = {"nets": "mlp", "net_options": {"mlp": {"hidden": [12]}}}
    return Experiment(**{"strategy": "fedavg", "rounds": 2, **nets, "data": data, "train": train, **changes})


def both(experiment: Experiment) -> tuple[History, History]:
    """The loop's run, and the one together."""
    return simulate(experiment, "in-process"), simulate(experiment, "together")


def check_equal(loop: History, together: History, *, to: float = 1e-5) -> None:
    """Every number of every row and of every client's line, but times."""
    rows = [*zip(loop.metrics, together.metrics, strict=True), *zip(loop.clients, together.clients, strict=True)]
    for one, other in rows:
        assert {*one} == {*other} - {*OF_ENGINE}
        for key in {*one} - {*TIMES}:
            near = isinstance(one[key], float) or (to > 0.05 and isinstance(one[key], list))  # accuracies by class are a list
            assert other[key] == (pytest.approx(one[key], rel=to, abs=to) if near else one[key]), key


def shares(history: History) -> list[float]:
    """Which part of the trainings were carried out as one, round by round."""
    return [row["trained_together"] for row in history.metrics[1:]]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_strategy_gives_what_it_gives_in_the_loop(name: str) -> None:
    small = Trial(strategies()[name], {}).experiment(evaluate_every=2)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        loop, together = both(small)
    check_equal(loop, together, to=SEARCHING.get(name, 1e-5))
    alone = any(row.get("trained_together", 1.0) < 1 for row in together.metrics)
    assert alone == any("one by one" in str(each.message) for each in said)


@pytest.mark.parametrize("name", MANY)
def test_strategies_for_many_small_clients_train_all_at_once(name: str) -> None:
    data = {"public": 20 if strategies()[name].needs.public else 0}
    loop, together = both(experiment(strategy=name, data=data, **NETS.get(name, {})))
    check_equal(loop, together)
    assert shares(together) == [1.0, 1.0]


def batch_normalised(shape: tuple[int, ...], classes: int) -> nn.Module:
    convolution = nn.Sequential(nn.Conv2d(shape[0], 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(convolution, nn.Flatten(), nn.Linear(36, classes))


def partly_frozen(shape: tuple[int, ...], classes: int) -> nn.Module:
    first = nn.Linear(shape[0] * shape[1] * shape[2], 6).requires_grad_(False)
    return nn.Sequential(nn.Flatten(), first, nn.Tanh(), nn.Linear(6, classes))


SETTINGS: dict[str, dict[str, Any]] = {
    "unequal sizes": {"data": {"partition": "dirichlet", "alpha": 1.0, "min_partition_size": 9, "train_limit": 160}},
    "batch norm": {"nets": batch_normalised},
    "frozen": {"nets": partly_frozen},
    "a cnn": {"nets": "cnn", "net_options": {"cnn": {"channels": [4], "hidden": 8}}},
    "softmax regression": {"net_options": {"mlp": {"hidden": []}}},
    "adam": {"train": {"optimizer": "adam", "lr": 0.01}},
    "adamw": {"train": {"optimizer": "adamw", "lr": 0.01}},
    "clipping": {"train": {"clip": 0.5}},
    "nesterov": {"train": {"nesterov": True}},
    "a schedule": {"train": {"schedule": "cosine"}},
    "smoothing and weights": {"train": {"label_smoothing": 0.1, "class_weights": "balanced"}},
    "some labels": {"data": {"labelled": 0.5}},
    "kept optimisers": {"strategy": "dsfl", "train": {"optimizer": "adam", "lr": 0.01}, "data": {"public": 20}},
    "liars": {"attack": {"name": "label_flip", "share": 0.2}},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_gives_what_it_gives_in_the_loop(name: str) -> None:
    loop, together = both(experiment(**SETTINGS[name]))
    check_equal(loop, together)
    assert min(shares(together)) > 0.5


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_half_precision_is_that_of_the_loop(device: str) -> None:
    engine = {"num_gpus": 1.0 if device == "cuda" else 0.0}
    loop, together = both(experiment(train={"precision": "bf16"}, engine=engine))
    check_equal(loop, together, to=2e-2)
    assert shares(together) == [1.0, 1.0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("nets", ["mlp", "cnn"])
def test_a_gpu_gives_what_its_loop_gives(nets: str) -> None:
    loop, together = both(experiment(nets=nets, engine={"num_gpus": 1.0}))
    check_equal(loop, together, to=1e-4)
    assert shares(together) == [1.0, 1.0]


def with_dropout(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Dropout(0.5), nn.Linear(8, classes))


ALONE: dict[str, tuple[dict[str, Any], str]] = {
    "dropout": ({"nets": with_dropout}, "random"),
    "accumulation": ({"train": {"accumulate": 2}}, "train.accumulate is above 1"),
    "few": ({"data": {"clients": 3}}, "too few agree"),
    "nets of their own": ({"strategy": "fd", "nets": {"mlp": 0.5, "cnn": 0.5}}, "too few agree"),
    "a clock": ({"clock": {"devices": {"phone": 1.0}}}, "the virtual clock counts"),
}


@pytest.mark.parametrize("name", ALONE)
def test_what_cannot_be_one_is_told_and_runs_as_before(name: str) -> None:
    changes, reason = ALONE[name]
    with pytest.warns(Notice, match=f"one by one.*{reason}"):
        loop, together = both(experiment(**changes))
    check_equal(loop, together, to=0)  # the very bytes
    assert shares(together) == [0.0, 0.0]


def test_the_order_of_messages_changes_no_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(shuffle: Callable[[list[Any]], list[Any]]) -> Any:
        monkeypatch.setattr(
            TogetherGrid, "run_jobs", lambda grid, messages, timeout: run_jobs(grid, shuffle([*messages]), timeout)
        )
        history = simulate(experiment(strategy="fedproto", data={"partition": "dirichlet", "alpha": 5.0}), "together")
        return [{key: value for key, value in row.items() if key not in TIMES} for row in history.metrics]

    run_jobs = TogetherGrid.run_jobs
    assert (
        run(lambda messages: messages)
        == run(lambda messages: messages[::-1])
        == run(lambda messages: messages[3:] + messages[:3])
    )
