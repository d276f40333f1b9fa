"""Before round 1, and before anything is written, every net sees one batch and the partition is drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import pytest
import torch
from fedkd.strategies.fedavg import FedAvg
from fedkd.strategies.multi_teacher import MultiTeacher
from torch import Tensor, nn

from fedkd import Experiment, InputError, Needs, Node, simulate
from fedkd.base.inputs import Inputs
from fedkd.data import Source
from fedkd.engine import rehearsal
from fedkd.engine import run as rounds
from fedkd.grids import JobGrid
from fedkd.nets import Encoder, Net
from fedkd.results.history import TIMES

LINEAR = lambda outputs: nn.Sequential(nn.Flatten(), nn.Linear(64, outputs))  # noqa: E731


class Says(nn.Module):
    """Gives whatever ``answer`` makes of images."""

    def __init__(self, answer: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.scale, self.answer = nn.Parameter(torch.ones(())), answer

    def forward(self, images: Tensor) -> object:
        return self.answer(images)


class OnlyInTraining(nn.Module):
    """Gives logits while it trains, and features after that."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1)) if self.training else images.flatten(1)


class OneWidthTooFew(Encoder):
    out_features = 7

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 8)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1))


def raises(*arguments: object) -> nn.Module:
    raise KeyError("no such width")


#: What a net may get wrong -> the function that makes it, and what the line says of it.
WRONG: dict[str, tuple[Callable[..., Any], str]] = {
    "a class too few": (lambda shape, classes: LINEAR(classes - 1), r"gives \(6, 9\) for 6 samples: .* logits \(6, 10\)"),
    "features": (lambda shape, classes: nn.Flatten(), r"gives \(6, 64\)"),
    "one row for all": (lambda shape, classes: Says(lambda images: images.flatten(1).mean(0)), r"gives \(64,\)"),
    "a map": (lambda shape, classes: nn.Conv2d(1, classes, 1), r"gives \(6, 10, 8, 8\)"),
    "text": (lambda shape, classes: Says(lambda images: "cat"), "a str"),
    "other images": (lambda shape, classes: nn.Linear(63, classes), r"fails in train mode .* \(1, 8, 8\): RuntimeError"),
    "other outputs in eval mode": (lambda shape, classes: OnlyInTraining(classes), r"gives \(6, 64\)"),
    "not finite": (lambda shape, classes: Says(lambda images: torch.full((6, 10), torch.nan)), "60 of 60 logits .* not finite"),
    "no net": (lambda shape, classes: 7, "returned a int"),
    "another signature": (lambda shape: LINEAR(10), r"takes \(shape\), and it is given \(shape, classes\)"),
    "an error": (raises, "cannot be built .*KeyError: 'no such width'"),
    "an encoder's width": (lambda shape, classes: OneWidthTooFew(), r"features that are \(6, 8\), not \(6, 7\)"),
}


PUBLIC = {"clients": 3, "partition": "iid", "train_limit": 60, "public": 20}


def experiment(**changes: Any) -> Experiment:
    data = {"clients": 3, "partition": "iid", "train_limit": 60}
    return Experiment(**{"strategy": "fedavg", "rounds": 1, "nets": "mlp", "data": data, **changes})


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("strategy", ["fedavg", "local"])
def test_a_net_that_cannot_work_is_refused_in_one_line(wrong: str, strategy: str, tmp_path: Path) -> None:
    net, said = WRONG[wrong]
    for out in (None, tmp_path / "run"):
        with pytest.raises(InputError, match=f"^nets: net '.*{said}") as caught:
            simulate(experiment(strategy=strategy, nets=net), out=out)
        assert len(str(caught.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("nets", {"strategy": "local", "nets": {"mlp": 0.5, "mine:net": 0.5}}),
        ("server_net", {"strategy": "dsfl", "server_net": "mine:net", "data": PUBLIC}),
        ("shared_net", {"strategy": "fml", "shared_net": "mine:net"}),
    ],
)
def test_it_is_every_net_that_the_experiment_names(
    key: str, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text("import torch.nn as nn\n\n\ndef net(shape, classes):\n    return nn.Flatten()\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=f"^{key}: net 'mine:net' gives "):
        simulate(experiment(**changes))


def test_on_every_grid(make_grid: Callable[[], JobGrid]) -> None:
    with pytest.raises(InputError, match=r"gives \(6, 64\)"):
        simulate(experiment(nets=WRONG["features"][0]), make_grid())


@pytest.mark.parametrize("out", ["", "run"])
def test_a_draw_that_cannot_be_made_is_refused_before_anything_is_written(out: str, tmp_path: Path) -> None:
    data = {"clients": 30, "partition": "dirichlet", "alpha": 0.001, "train_limit": 60}
    with pytest.raises(InputError, match=r"data\.partition"):
        simulate(experiment(data=data), out=out and tmp_path / out)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("net", ["cnn", "resnet18"])
def test_a_rehearsal_changes_no_bit_of_the_run(net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch statistics, dropout and initial weights are those of a run without one."""
    settings = experiment(nets=net, net_options={net: {"resnet18": {"width": 4}}.get(net, {})})
    torch.manual_seed(3)
    before = torch.get_rng_state()
    rehearsed = simulate(settings).metrics
    assert torch.equal(before, torch.get_rng_state())
    monkeypatch.setattr(rounds, "rehearse", lambda strategy, server: None)
    plain = simulate(settings).metrics
    rows = [[{key: value for key, value in row.items() if key not in TIMES} for row in run] for run in (rehearsed, plain)]
    assert rows[0] == rows[1]


def test_it_costs_one_net_an_architecture_however_many_clients_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = experiment(nets={"mlp": 0.5, "cnn": 0.5}, strategy="local", data={"clients": 1000, "partition": "iid"})
    run = rounds.Run(settings, None)  # type: ignore[arg-type]
    built: list[str] = []
    fresh_net = Node.fresh_net

    def counted(node: Node, *, architecture: str) -> Net:
        built.append(architecture)
        return fresh_net(node, architecture=architecture)

    monkeypatch.setattr(Node, "fresh_net", counted)
    rehearsal.rehearse(run.strategy, run.server)
    assert sorted(built) == ["cnn", "mlp"]


def of_kind(kind: str) -> Source:
    """A little data set of one kind, in two classes."""
    labels = torch.arange(40) % 2
    ids = torch.arange(1, 7).repeat(40, 1)
    inputs: Inputs = {
        "vector": torch.randn(40, 6),
        "tokens": ids,
        "dict": {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
    }[kind]
    return Source("little", inputs, labels, inputs, labels, ("a", "b"))


def fails(inputs: Tensor, rng: torch.Generator) -> Tensor:
    raise KeyError("no such view")


@final
@dataclass(frozen=True)
class Turning(FedAvg):
    """As a strategy of a user's own says that it takes images only."""

    needs: ClassVar[Needs] = Needs(labels=True, images=True)


class OneTensor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def embedding(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(24, classes))


FLAT = lambda shape, classes: OneTensor()  # noqa: E731
UNFIT: list[tuple[str, dict[str, Any], str]] = [
    ("vector", {"strategy": Turning()}, "Turning needs images, and data.source 'little' holds samples of kind 'vector'"),
    (
        "vector",
        {"strategy": "fedx", "views": "simclr"},
        "'simclr' is for samples of kind 'image', and these are of kind 'vector': take corrupt",
    ),
    (
        "vector",
        {"strategy": "fedsimclr", "views": f"{__name__}:fails"},
        "fails on a batch of vector samples \\(6,\\): KeyError: 'no such",
    ),
    (
        "tokens",
        {"nets": FLAT},
        "on a batch of tokens samples \\(6,\\): .* \\(samples are token ids, int64: it must begin with an embedding\\)",
    ),
    (
        "dict",
        {"nets": FLAT},
        "input_ids \\(6,\\), attention_mask \\(6,\\): .* its forward is called with input_ids=, attention_mask=",
    ),
    ("vector", {"nets": "cnn"}, "cnn"),
    (
        "vector",
        {"strategy": MultiTeacher(loss="at"), "data": {"public": 8, "public_labels": True}},
        "strategy.loss: 'at' reads feature maps, and net 'mlp' has none: take nets with convolutions or blocks",
    ),
    (
        "tokens",
        {"strategy": MultiTeacher(loss="jacobian"), "nets": embedding, "data": {"public": 8, "public_labels": True}},
        "loss: 'jacobian' differentiates by the samples, and data.source 'little' holds tokens",
    ),
]


@pytest.mark.parametrize(("kind", "keys", "line"), UNFIT, ids=[line[:30] for _, _, line in UNFIT])
def test_samples_that_strategy_views_or_net_cannot_use_are_one_line_before_round_1(
    kind: str, keys: dict[str, Any], line: str
) -> None:
    views = {"views": keys["views"]} if "views" in keys else {}
    data = {"source": of_kind(kind), "clients": 2, "partition": "iid", **views, **keys.get("data", {})}
    usual = {"strategy": "fedavg", "nets": "mlp", "rounds": 1}
    experiment = Experiment(**{**usual, **{k: v for k, v in keys.items() if k != "views"}, "data": data})
    with pytest.raises(InputError, match=line) as caught:
        simulate(experiment)
    assert "\n" not in str(caught.value)
