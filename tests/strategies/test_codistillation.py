"""Codistillation: its loss by hand, who learns from whose checkpoint and how old it is, and what it is without any."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import fedkd.strategies.codistillation as codistillation_module
import pytest
import torch
from fedkd.strategies.codistillation import Codistillation
from public_runs import few_samples, server_of, tiny
from test_resume import rows, run_in_pieces
from torch import Tensor, nn

from fedkd import Client, Experiment, Knowledge, simulate
from fedkd.grids import InProcessGrid
from fedkd.knowledge.memory import Memory

BARE = {"momentum": 0.0, "lr": 0.1, "batch_size": 8}  # without momentum a kept optimiser is a new one


def with_batch_norm(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, classes))


def client_in(experiment: Experiment, id: int = 0, *, round: int = 1, exchange: int = 0) -> Client:
    federation, functions = experiment.federation(), experiment.functions()
    client = Client(id, experiment, functions, federation, Memory(), torch.device("cpu"))
    client.round, client.exchange = round, exchange
    return client


def nets_of(experiment: Experiment) -> dict[int, Knowledge]:
    """Every client's own initial net, as an upload."""
    clients = (client_in(experiment, id) for id in range(experiment.data.clients))
    return {client.id: Knowledge.of("weights", client.net(init="own").state_dict()).copy() for client in clients}


@pytest.mark.recomputed("codistillation", by="hand")
@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("cross_entropy", 0.35 * math.log(4) + 0.65 * math.log(4 / 3)),
        ("kl", 0.35 * math.log(4 * 0.35) + 0.65 * math.log(4 / 3 * 0.65)),
        ("logit_mse", ((0 - 0) ** 2 + (math.log(3) - math.log(4) / 2) ** 2) / 2),
    ],
)
def test_psi_by_hand(loss: str, expected: float) -> None:
    """Own (1/4, 3/4); others (1/2, 1/2) and (1/5, 4/5), on average (0.35, 0.65); their mean logits (0, log(4) / 2)."""
    own, others = torch.tensor([[0.0, 2.0]]).log1p(), torch.tensor([[[0.0, 0.0]], [[0.0, 3.0]]]).log1p()
    assert float(codistillation_module.AGREEMENTS[loss](own, others)) == pytest.approx(expected, rel=1e-5)


def test_cross_entropy_and_divergence_have_one_gradient() -> None:
    rng = torch.Generator().manual_seed(0)
    others, start = torch.randn(3, 4, 5, generator=rng), torch.randn(4, 5, generator=rng)
    gradients = []
    for loss in ("cross_entropy", "kl"):
        own = start.clone().requires_grad_(True)
        codistillation_module.AGREEMENTS[loss](own, others).backward()
        gradients.append(own.grad)
    assert torch.allclose(*gradients, atol=1e-6)  # type: ignore[arg-type]


@pytest.mark.recomputed("codistillation", by="formula")
def test_the_loss_of_a_run_is_that_of_the_received_nets_on_own_batches() -> None:
    """One batch of all samples, one step: cross-entropy plus 0.5 psi of three clients' initial nets."""
    strategy = Codistillation(weight=0.5, burn_in=0.0)
    experiment = tiny(strategy, data={"clients": 3}, train={"batch_size": 64})
    broadcast = strategy.server_update(server_of(experiment), nets_of(experiment))[0]
    client = client_in(experiment, round=2)
    net, samples = client.net(init="own", keep=True), client.train
    (batch,) = samples.batches(epochs=1, batch_size=64, rng=torch.Generator().manual_seed(0))
    said = torch.stack([client_in(experiment, id).net(init="own")(batch.inputs).softmax(1) for id in (1, 2)]).mean(0)
    own = net(batch.inputs).log_softmax(1)
    labels = -own[torch.arange(len(batch)), batch.labels].mean()
    metrics = strategy.client_update(client, broadcast).metrics
    assert metrics["cross_entropy"] == pytest.approx(labels.item(), rel=1e-5)
    assert metrics["distillation"] == pytest.approx(0.5 * -(said * own).sum(1).mean().item(), rel=1e-5)
    assert metrics["distillation_weight"] == 0.5


def test_others_are_constants_and_their_statistics_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = Codistillation(burn_in=0.0)
    experiment = tiny(strategy, nets=with_batch_norm, net_options={}, data={"clients": 3})
    broadcast = strategy.server_update(server_of_functions(experiment), nets_of(experiment))[1]
    seen: list[nn.Module] = []
    give = codistillation_module.nets_of_others
    monkeypatch.setattr(codistillation_module, "nets_of_others", lambda *arguments: seen.extend(give(*arguments)) or list(seen))
    client = client_in(experiment, 1, round=2)
    strategy.client_update(client, broadcast)
    assert len(seen) == 2
    for owner, net in zip((0, 2), seen, strict=True):
        assert all(p.grad is None for p in net.parameters())
        assert not net.training
        for name, tensor in net.state_dict().items():
            assert torch.equal(tensor, broadcast.tensors[f"{owner}/{name}"])
    counter = next(t for n, t in client.net(init="own", keep=True).state_dict().items() if n.endswith("num_batches_tracked"))
    assert counter == 1  # its own one is trained: a step of 28 samples


def server_of_functions(experiment: Experiment) -> Any:
    server = server_of(experiment)
    server._functions = experiment.functions()
    return server


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [Codistillation(burn_in=1.0), Codistillation(weight=0.0, burn_in=0.0), "one client"])
def test_without_psi_it_is_local_training_bit_for_bit(strategy: Any) -> None:
    data = {"clients": 1} if strategy == "one client" else {}
    chosen = Codistillation(burn_in=0.0) if strategy == "one client" else strategy
    settings = {"rounds": 3, "train": {**BARE, "epochs": 2}, "data": data}
    found, alone = (simulate(tiny(name, **settings)).metrics for name in (chosen, "local"))
    assert [row["client_accuracy"] for row in found] == [row["client_accuracy"] for row in alone]
    assert [row["cross_entropy"] for row in found[1:]] == [row["cross_entropy"] for row in alone[1:]]
    assert {row.get("distillation", 0.0) for row in found} == {0.0}


def test_in_the_burn_in_nothing_travels_but_the_checkpoint_that_is_used_after_it() -> None:
    """Four rounds, half of them burn-in: checkpoints go up from round 2 on and are used from round 3 on."""
    metrics = simulate(tiny(Codistillation(burn_in=0.5), rounds=4)).metrics[1:]
    assert [row["bytes_up"] > 0 for row in metrics] == [False, True, True, True]
    assert [row["bytes_down"] > 0 for row in metrics] == [False, False, True, True]
    assert [row["distillation_weight"] for row in metrics] == [0.0, 0.0, 1.0, 1.0]


def test_the_exchanges_of_a_round_are_those_of_the_largest_shard() -> None:
    """16 samples a client; three times in batches of 8 make 6 steps, and these 2 exchanges of at most 4."""
    experiment = tiny(Codistillation(every=4), train={"batch_size": 8, "epochs": 3})
    assert experiment.strategy.exchanges_per_round(experiment) == 2
    assert Codistillation(every=6).exchanges_per_round(experiment) == 1
    uneven = tiny(Codistillation(every=4), train={"batch_size": 6, "epochs": 3})
    assert uneven.strategy.exchanges_per_round(uneven) == 3  # 6, 6 and 4 samples, three times
    assert Codistillation(every=0).exchanges_per_round(experiment) == 1
    without_labels = tiny(Codistillation(), data={"labelled": 0.001})  # a share of 16 samples that is none
    assert Codistillation(every=4).exchanges_per_round(without_labels) == 1
    seen: list[int] = []
    for exchange in range(4):
        client = client_in(experiment, exchange=exchange)
        draws = codistillation_module.share_of_round(client, client.train, 4)
        assert len(draws) == [1, 2, 1, 2][exchange]
        seen += [id for draw in draws for id in client.train.batch(draw).ids.tolist()]
    assert all(sorted(seen[i : i + 16]) == sorted(client.train.samples.indices.tolist()) for i in (0, 16, 32))


@pytest.mark.parametrize("samples", [1, 2, 9, 16, 17, 18])
@pytest.mark.parametrize("exchanges", [2, 3, 7])
def test_the_parts_of_a_round_have_the_steps_that_are_counted(samples: int, exchanges: int) -> None:
    client = client_in(tiny(Codistillation(), train={"batch_size": 8, "epochs": 2}, data={"train_limit": 90}))
    data, found, positions = client.split(client.train.samples.subset(torch.arange(samples))), [], []
    for client.exchange in range(exchanges):
        draws = codistillation_module.share_of_round(client, data, exchanges)
        found.append(len(draws))
        positions += [position for draw in draws for position in draw.positions.tolist()]
    assert sorted(positions[:samples]) == sorted(positions[samples:]) == list(range(samples))  # each once an epoch
    steps = codistillation_module.steps_per_round(data)
    counted = [codistillation_module.steps_before(number, exchanges, steps) for number in range(exchanges + 1)]
    assert found == [after - before for before, after in pairwise(counted)]
    assert sum(found) == steps


def test_a_small_client_has_nothing_to_train_on_in_some_exchanges() -> None:
    """Two samples, one step, in the last of 4 exchanges; the round goes on, and its checkpoint stays as it was."""
    experiment = tiny(Codistillation(every=1, burn_in=0.0), train={"batch_size": 8})
    strategy, client = experiment.strategy, client_in(experiment)
    few = client.train.samples.subset(torch.arange(2))
    sizes = []
    for client.exchange in range(4):
        sizes.append([len(draw.positions) for draw in codistillation_module.share_of_round(client, client.split(few), 4)])
    assert sizes == [[], [], [], [2]]
    client.train_samples, client.exchange = few, 0
    before = {name: tensor.clone() for name, tensor in client.net(init="own", keep=True).state_dict().items()}
    upload = strategy.client_update(client, Knowledge())
    assert all(torch.equal(upload.tensors[name], tensor) for name, tensor in before.items())
    assert upload.metrics == {"distillation_weight": 0.0}


def test_each_client_is_told_all_others_with_their_architectures() -> None:
    experiment = tiny(Codistillation(), nets={"mlp": 0.5, "cnn": 0.5}, data={"clients": 3}, net_options={})
    uploads = nets_of(experiment)
    told = experiment.strategy.server_update(server_of(experiment), uploads)
    kinds = {client: experiment.architecture_of(client) for client in range(3)}
    assert len(set(kinds.values())) == 2
    for client, broadcast in told.items():
        others = [other for other in range(3) if other != client]
        assert broadcast.header == {"made": 0, **{f"architecture {other}": kinds[other] for other in others}}
        nets = codistillation_module.nets_of_others(client_in(experiment, client, round=2), broadcast)
        assert [net.architecture for net in nets] == [kinds[other] for other in others]
        for other, net in zip(others, nets, strict=True):
            assert all(torch.equal(tensor, uploads[other].tensors[name]) for name, tensor in net.state_dict().items())
        assert all(not name.startswith(f"{client}/") for name in broadcast.tensors)


def test_the_order_of_clients_changes_nothing() -> None:
    strategy = Codistillation(burn_in=0.0)
    experiment = tiny(strategy, data={"clients": 4})
    uploads = nets_of(experiment)
    told = strategy.server_update(server_of(experiment), uploads)[0]
    turned = strategy.server_update(server_of(experiment), dict(reversed(uploads.items())))[0]
    shuffled = Knowledge.of("weights", dict(reversed(told.tensors.items())), header=told.header)
    found = [strategy.client_update(client_in(experiment, round=2), each) for each in (told, turned, shuffled)]
    assert found[0].metrics["distillation"] > 0
    for other in found[1:]:
        assert other.metrics == found[0].metrics
        assert same(other.tensors, found[0].tensors)


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_who_fails_is_in_nobodys_target_until_its_next_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two clients number 1 breaks down in round 2: in round 3 number 0 has nobody, and it has number 0's newest."""
    update = Codistillation.client_update
    ages: dict[tuple[int, int], Any] = {}

    def failing(self: Codistillation, client: Client, broadcast: Knowledge) -> Knowledge:
        if (client.id, client.round) == (1, 2):
            raise RuntimeError("no power")
        ages[client.id, client.round] = (
            sorted({name.split("/")[0] for name in broadcast.tensors}),
            broadcast.header.get("made"),
        )
        return update(self, client, broadcast)

    monkeypatch.setattr(Codistillation, "client_update", failing)
    history = simulate(tiny(Codistillation(burn_in=0.0), rounds=4), InProcessGrid())
    assert history.metrics[2]["clients_failed"] == 1
    assert [ages[0, round][0] for round in (1, 2, 3, 4)] == [[], ["1"], [], ["1"]]
    assert ages[1, 3] == (["0"], 1)  # made in round 2, number 1 from 0
    weights = {row["round"]: row["distillation_weight"] for row in history.clients if row["client"] == 0 and row["round"]}
    assert weights == {1: 0.0, 2: 1.0, 3: 0.0, 4: 1.0}


@pytest.mark.parametrize("staleness", [1, 2, 3])
def test_copies_are_as_old_as_asked_for_and_the_server_keeps_no_more(staleness: int) -> None:
    experiment = tiny(Codistillation(staleness=staleness, burn_in=0.0))
    server, strategy = server_of(experiment), experiment.strategy
    first = nets_of(experiment)
    for round in range(1, 6):
        server.round = round
        uploads = {k: Knowledge.of("weights", {n: t + round for n, t in u.tensors.items()}) for k, u in first.items()}
        told = strategy.server_update(server, uploads)[0]
        made = round - staleness + 1  # the round whose checkpoints are due
        assert bool(told.tensors) == (made >= 1)
        for name, tensor in told.tensors.items():
            assert torch.equal(tensor, first[1].tensors[name.removeprefix("1/")] + made)
        kept = [name for name, value in server.memory.items() if isinstance(value, Tensor)]
        assert len(kept) == min(round, staleness) * 2 * len(first[0].tensors)


@pytest.mark.slow
def test_the_log_says_how_old_copies_are_in_steps() -> None:
    """Four steps a round; copies of the last round are 0, 1, 2 and 3 steps old, on average 1.5; a round older: 5.5."""
    settings = {"rounds": 4, "train": {"batch_size": 8, "epochs": 2}}
    for strategy, expected in (
        (Codistillation(burn_in=0.0), [None, 1.5, 1.5, 1.5]),
        (Codistillation(burn_in=0.0, staleness=2), [None, None, 5.5, 5.5]),
        (Codistillation(burn_in=0.0, every=2), [0.5, 0.5, 0.5, 0.5]),
    ):
        assert [row.get("staleness") for row in simulate(tiny(strategy, **settings)).metrics[1:]] == expected


def test_each_exchange_ends_with_a_checkpoint() -> None:
    """Four steps a round, one an exchange; two clients with an mlp of 610 weights each."""
    settings = {"rounds": 1, "train": {"batch_size": 8, "epochs": 2}}
    row = simulate(tiny(Codistillation(every=1, burn_in=0.0), **settings)).metrics[1]
    assert row["bytes_up"] == 4 * 2 * 4 * 610
    assert row["bytes_down"] == 3 * 2 * 4 * 610  # nothing was known in the first


@pytest.mark.slow
def test_a_resumed_run_equals_the_unbroken_one(tmp_path: Path) -> None:
    strategy = Codistillation(every=1, staleness=2, burn_in=0.0)
    whole = tiny(strategy, rounds=4, train={"batch_size": 8}, participation=0.7, data={"clients": 3})
    simulate(whole, out=tmp_path / "whole")
    run_in_pieces(whole, tmp_path / "pieces", cuts=(0, 2))
    assert rows(tmp_path / "pieces") == rows(tmp_path / "whole")


@pytest.mark.slow
def test_clients_learn_from_each_other_what_their_shards_lack() -> None:
    """Seen on digits, 5 clients of 33 to 51 samples, two kinds of nets, 12 rounds, mean of two seeds: on the global test set
    60.6 % on average and 45.1 % agreement, with weight 0 57.4 and 38.0 %. Their ensemble loses by it: it has less to add up.
    """
    found = {}
    for weight in (0.0, 1.0):
        codistillation = Codistillation(every=5, burn_in=0.3, weight=weight)
        last = [simulate(few_samples(codistillation, rounds=12, seed=seed)).metrics[-1] for seed in (0, 2)]
        found[weight] = {key: sum(row[key] for row in last) / 2 for key in ("accuracy", "agreement")}
    assert found[1.0]["accuracy"] > found[0.0]["accuracy"] + 0.01
    assert found[1.0]["agreement"] > found[0.0]["agreement"] + 0.03
