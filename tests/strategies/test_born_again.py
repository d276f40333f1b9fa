"""Born-again networks: the three losses by hand, who teaches whom, how each generation starts, what the server keeps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import fedkd.strategies.born_again as born_again_module
import pytest
import torch
from fedkd.strategies.born_again import VARIANTS, BornAgain, confidence_shares, shuffle_others
from public_runs import server_of, tiny
from test_resume import rows, run_in_pieces
from torch import Tensor, nn

from fedkd import Client, Experiment, Knowledge, Server, simulate
from fedkd.knowledge.memory import Memory
from fedkd.methods.frozen_nets import TEACHER, student_tensors
from fedkd.nets import Net


def with_batch_norm(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, classes))


def client_in(experiment: Experiment, id: int = 0, *, round: int = 1) -> Client:
    federation, functions = experiment.federation(), experiment.functions()
    client = Client(id, experiment, functions, federation, Memory(), torch.device("cpu"))
    client.round = round
    return client


class Play:
    """Rounds by hand: what is broadcast after each, and by what each client was taught."""

    def __init__(
        self, strategy: Any, monkeypatch: pytest.MonkeyPatch, *, module: Any = born_again_module, **settings: Any
    ) -> None:
        self.experiment, self.strategy = tiny(strategy, **settings), strategy
        self.server: Server = server_of(self.experiment)
        self.server._functions = self.experiment.functions()
        self.told = [strategy.first_broadcast(self.server).copy()]
        self.teachers: dict[int, Net] = {}  # by round, of client 1
        frozen_net = module.frozen_net

        def watched(node: Any, name: str, weights: Any) -> Net:
            net = frozen_net(node, name, weights)
            if name in ("teacher", "snapshot"):
                self.teachers[node.round] = net
            return net

        monkeypatch.setattr(module, "frozen_net", watched)
        for round in range(1, self.experiment.rounds + 1):
            self.server.round = round
            uploads = {id: self.update(id, round) for id in (0, 1)}
            self.told.append(strategy.server_update(self.server, uploads).copy())

    def update(self, id: int, round: int) -> Knowledge:
        return self.strategy.client_update(client_in(self.experiment, id, round=round), self.told[round - 1]).copy()

    def last(self, round: int) -> dict[str, Tensor]:
        """The mean net after a round."""
        return student_tensors(self.told[round])


def same(a: Any, b: Any) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.recomputed("born_again", by="hand")
def test_the_shares_of_confidence_sum_to_one() -> None:
    """Teachers sure by 1/2, 4/5 and 7/10 count 5, 8 and 7 twentieths."""
    teacher = torch.tensor([[0.5, 0.5], [0.2, 0.8], [0.7, 0.3]]).log() + torch.tensor([[1.0], [2.0], [3.0]])
    assert confidence_shares(teacher).tolist() == pytest.approx([0.25, 0.4, 0.35])
    shares = confidence_shares(torch.randn(64, 10, generator=torch.Generator().manual_seed(0)))
    assert shares.sum().item() == pytest.approx(1.0)


def test_a_shuffle_keeps_the_largest_probability_and_the_set_of_the_others() -> None:
    rng = torch.Generator().manual_seed(0)
    p = torch.randn(64, 10, generator=rng).softmax(1)
    shuffled = shuffle_others(p, rng)
    assert torch.equal(shuffled.argmax(1), p.argmax(1))
    assert torch.equal(shuffled.amax(1), p.amax(1))
    assert torch.equal(shuffled.sort(1).values, p.sort(1).values)
    moved = shuffled != p
    assert moved.any(1).float().mean() > 0.9
    assert (moved.float().mean(0) > 0.3).all()  # of every class
    assert torch.equal(shuffle_others(p[:, :2], rng), p[:, :2])  # one other: nowhere to go


@pytest.mark.recomputed("born_again", by="hand")
@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("ban", (0.5 * math.log(4) + 0.5 * math.log(4 / 3) + 0.2 * math.log(2) + 0.8 * math.log(2)) / 2),
        ("cwtm", (5 * math.log(4) + 8 * math.log(2)) / 13),
        ("dkpp", (0.5 * math.log(4) + 0.5 * math.log(4 / 3) + 0.2 * math.log(2) + 0.8 * math.log(2)) / 2),
    ],
)
def test_the_losses_by_hand(variant: str, expected: float) -> None:
    """Student (1/4, 3/4) and (1/2, 1/2), teacher (1/2, 1/2) and (1/5, 4/5), labels 0 and 1; two classes cannot be shuffled."""
    student = torch.tensor([[0.0, 2.0], [0.0, 0.0]]).log1p().requires_grad_(True)
    teacher = torch.tensor([[0.0, 0.0], [0.0, 3.0]]).log1p().requires_grad_(True)
    loss = VARIANTS[variant](student, teacher.detach(), torch.tensor([0, 1]), torch.Generator())
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert student.grad is not None
    assert student.grad.any()


def test_each_generation_starts_from_weights_of_its_own_that_all_clients_share() -> None:
    experiment = tiny(BornAgain())
    starts = {}
    for generation in (1, 2, 3):
        fresh = [
            c.module(f"generation {generation}", c.fresh_net).state_dict() for c in (client_in(experiment, i) for i in (0, 1))
        ]
        assert same(*fresh)
        starts[generation] = fresh[0]
    starts[0] = client_in(experiment).net().state_dict()
    weights = torch.stack([starts[generation]["heads.classifier.weight"].flatten() for generation in range(4)])
    assert torch.cdist(weights, weights)[~torch.eye(4, dtype=torch.bool)].min() > 0.5


def test_what_a_generation_begins_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """With hardly any learning what a client returns is what it started from: its generation's weights, not its teacher's."""
    play = Play(BornAgain(generation=2), monkeypatch, rounds=4, train={"lr": 1e-12})
    client = client_in(play.experiment)
    first, second = client.net().state_dict(), client.module("generation 1", client.fresh_net).state_dict()
    for round, start in ((1, first), (2, first), (3, second), (4, second)):
        assert all(torch.allclose(play.last(round)[name], tensor, atol=1e-6) for name, tensor in start.items())
    assert not torch.allclose(first["heads.classifier.weight"], second["heads.classifier.weight"], atol=1e-2)


def test_the_teacher_is_the_last_net_of_the_generation_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three generations of two rounds; the net that teaches in each round."""
    play = Play(BornAgain(generation=2), monkeypatch, rounds=6, nets=with_batch_norm, net_options={})
    assert sorted(play.teachers) == [3, 4, 5, 6]
    for round, taught_by in ((3, 2), (4, 2), (5, 4), (6, 4)):
        assert same(play.teachers[round].state_dict(), play.last(taught_by))  # also: a constant, its statistics too
        assert all(p.grad is None for p in play.teachers[round].parameters())
        assert not play.teachers[round].training
    assert [play.told[round].header["generation"] for round in range(7)] == [0, 0, 0, 1, 1, 2, 2]
    assert [any(name.startswith(TEACHER) for name in told.tensors) for told in play.told] == [
        *[False] * 3,
        True,
        False,
        True,
        False,
    ]
    kept = [play.server.memory.under(f"generation {number}/") for number in range(4)]
    assert [bool(each) for each in kept] == [True, True, True, False]
    assert all(same(kept[number], play.last(2 * number + 2)) for number in range(3))


def test_if_nobody_answers_when_a_generation_begins_it_begins_a_round_later(monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play(BornAgain(generation=2), monkeypatch, rounds=2)
    client = client_in(play.experiment, round=4)  # round 3 left no trace
    play.strategy.client_update(client, play.told[2])
    assert same(play.teachers[4].state_dict(), play.last(2))


@pytest.mark.recomputed("born_again", by="formula")
def test_the_loss_of_the_second_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    """One step on all samples: its teacher's cross-entropy with the fresh net, and half of that with labels."""
    play = Play(BornAgain(generation=1, label_weight=0.5), monkeypatch, rounds=1, train={"batch_size": 64})
    client = client_in(play.experiment, round=2)
    samples, fresh = client.train, client.module("generation 1", client.fresh_net)
    (batch,) = samples.batches(epochs=1, batch_size=64, rng=torch.Generator().manual_seed(0))
    own = fresh(batch.inputs).log_softmax(1)
    found = play.strategy.client_update(client, play.told[1]).metrics
    said = play.teachers[2](batch.inputs).softmax(1)
    labels = -own[torch.arange(len(batch)), batch.labels].mean()
    assert found["distillation"] == pytest.approx(-(said * own).sum(1).mean().item(), rel=1e-5)
    assert found["cross_entropy"] == pytest.approx(0.5 * labels.item(), rel=1e-5)
    assert (found["distillation_weight"], found["generation"]) == (1.0, 1)


def test_one_generation_is_fedavg_bit_for_bit() -> None:
    settings = {"rounds": 3, "train": {"lr": 0.1, "batch_size": 8, "schedule": "cosine"}}
    born, averaged = (simulate(tiny(name, **settings)).metrics for name in (BornAgain(generation=3), "fedavg"))
    for key in ("accuracy", "cross_entropy", "bytes_up", "bytes_down"):
        assert [row.get(key) for row in born] == [row.get(key) for row in averaged]


def test_a_generation_repeats_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    make = born_again_module.make_optimizer
    monkeypatch.setattr(born_again_module, "make_optimizer", lambda *a, lr: rates.append(lr) or make(*a, lr=lr))
    train = {"lr": 0.8, "schedule": "step", "milestones": (1, 2)}
    Play(BornAgain(generation=3), monkeypatch, rounds=6, train=train)
    assert rates[::2] == rates[1::2] == rates[:6:2] * 2
    assert len(set(rates)) == 3


def test_the_server_predicts_by_every_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play(BornAgain(generation=1), monkeypatch, rounds=3)
    images = play.server.test.samples.inputs[:5].float()
    predictors = play.strategy.predictors(play.server, play.told[3])
    assert list(predictors) == ["student", "generations"]
    logits = predictors["generations"].function(images)  # (K, B, C)
    assert logits.shape == (3, 5, 10)
    assert torch.equal(logits[2], predictors["student"].function(images))
    alone = {round: play.strategy.predictors(client_in(play.experiment, round=round), play.told[round]) for round in (1, 2, 3)}
    assert all(list(each) == ["student"] for each in alone.values())
    assert all(torch.equal(logits[round - 1], each["student"].function(images)) for round, each in alone.items())
    play.server.round = 1
    assert list(play.strategy.predictors(server_of(play.experiment), play.told[0])) == ["student"]


@pytest.mark.slow
def test_a_resumed_run_equals_the_unbroken_one(tmp_path: Path) -> None:
    whole = tiny(BornAgain(generation=2, variant="dkpp"), rounds=5, train={"batch_size": 8})
    simulate(whole, out=tmp_path / "whole")
    run_in_pieces(whole, tmp_path / "pieces", cuts=(1, 3))
    assert rows(tmp_path / "pieces") == rows(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["ban", "cwtm", "dkpp"])
def test_every_generation_learns(variant: str) -> None:
    """Seen on digits, one client of 240, five rounds a generation: the first 90.8 % on the global test set; the second 93.9 %
    (ban), 86.4 (cwtm) and 90.3 (dkpp), both together 93.3, 94.7 and 92.8.
    """
    train, data = {"epochs": 4, "batch_size": 16, "lr": 0.05}, {"clients": 1, "partition": "iid", "train_limit": 300}
    experiment = Experiment(
        strategy=BornAgain(generation=5, variant=variant), rounds=10, evaluate_every=5, nets="cnn", train=train, data=data
    )
    metrics = simulate(experiment).metrics
    assert metrics[10]["accuracy"] > 0.8
    assert metrics[10]["ensemble_accuracy"] > metrics[5]["accuracy"]
    assert metrics[10]["ensemble_accuracy"] > metrics[10]["generations_accuracy"]
