"""KT-pFL: a mixture for each client, coefficients that the server learns, a part of them where not all take part."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fedkd.strategies.kt_pfl import KTpFL, step_of_part
from public_runs import client_of, server_of, tiny

from fedkd import Experiment, InputError, Knowledge, simulate
from fedkd.aggregate import mean
from fedkd.methods.public_distillation import predict_public


def says(table: torch.Tensor) -> Knowledge:
    return Knowledge.of("probabilities", {"probabilities": table})


def row(*shares: float) -> torch.Tensor:
    """The same row of 10 classes, the rest zeros, for each of the 30 public samples."""
    return torch.tensor([*shares, *[0.0] * (10 - len(shares))]).expand(30, 10).clone()


def answers(strategy: KTpFL, *tables: torch.Tensor, clients: tuple[int, ...] = (0, 1)) -> dict[int, torch.Tensor]:
    server = server_of(tiny(strategy, data={"clients": len(tables)}))
    said = strategy.server_update(server, dict(zip(clients, map(says, tables), strict=True)))
    assert not isinstance(said, Knowledge)
    return {client: knowledge.tensors["probabilities"] for client, knowledge in said.items()}


@pytest.mark.recomputed("kt_pfl", by="hand")
def test_one_step_by_hand() -> None:
    """Two clients that name classes 0 and 1: from 1/2 the gradient of an MSE over ten classes is -+ 1/10."""
    taught = answers(KTpFL(coefficient_lr=1.0, rho=0.0), row(1.0), row(0.0, 1.0))
    assert torch.allclose(taught[0], row(0.6, 0.4))
    assert torch.allclose(taught[1], row(0.4, 0.6))
    pulled = 0.5 + 0.1 / (1 + 2 * 0.7 / 2)
    assert torch.allclose(answers(KTpFL(), row(1.0), row(0.0, 1.0))[0], row(pulled, 1 - pulled))


@pytest.mark.parametrize("strategy", [KTpFL(coefficient_lr=0.0), KTpFL(rho=float("inf"))])
def test_without_a_step_or_with_an_infinite_rho_it_is_the_mean_for_all(strategy: KTpFL) -> None:
    tables = [torch.randn(30, 10, generator=torch.Generator().manual_seed(seed)).softmax(1) for seed in (0, 1)]
    for table in answers(strategy, *tables).values():
        torch.testing.assert_close(table, mean(torch.stack(tables)))


def test_equal_clients_keep_equal_coefficients() -> None:
    server, table = server_of(tiny(KTpFL())), row(0.7, 0.3)
    for _ in range(3):
        KTpFL().server_update(server, {0: says(table), 1: says(table)})
    assert server.memory.tensor("coefficients").tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert server.reported["server_own_coefficient"] == 0.5


def test_clients_that_are_alike_come_to_teach_each_other() -> None:
    strategy = KTpFL(rho=0.01)
    server = server_of(tiny(strategy, data={"clients": 4}))
    camps = [row(0.9, 0.1), row(0.8, 0.2), row(0.1, 0.9), row(0.2, 0.8)]
    for _ in range(50):
        strategy.server_update(server, dict(enumerate(map(says, camps))))
    held = server.memory.tensor("coefficients")
    assert held[:2, :2].sum(1).min() > 0.8 and held[2:, 2:].sum(1).min() > 0.8


def test_who_is_absent_keeps_its_row_and_its_share() -> None:
    held = torch.tensor([[0.2, 0.5, 0.3], [0.1, 0.6, 0.3], [0.3, 0.3, 0.4]], dtype=torch.float64)
    tables = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    after, part = step_of_part(held, torch.tensor([0, 2]), tables, lr=0.1, rho=0.0)
    torch.testing.assert_close(after.sum(1), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(part.sum(1), torch.ones(2, dtype=torch.float64))
    assert torch.equal(after[1], held[1]) and torch.equal(after[:, 1], held[:, 1])
    # Row 0 among 0 and 2: 0.4 and 0.6, so the mixture misses by (-0.6, 0.6) and a step of 0.1 gives 0.46 and 0.54.
    assert part[0].tolist() == pytest.approx([0.46, 0.54])


def test_whoever_sent_nothing_is_taught_the_mean() -> None:
    strategy = KTpFL(rho=0.0)
    server = server_of(tiny(strategy, data={"clients": 3}))
    said: Any = strategy.server_update(server, {0: says(row(1.0)), 1: says(row(0.0, 1.0))})
    assert torch.allclose(said[2].tensors["probabilities"], row(0.5, 0.5))
    assert not torch.allclose(said[0].tensors["probabilities"], row(0.5, 0.5))


def taught(table: torch.Tensor | None, **fields: Any) -> tuple[float, torch.Tensor]:
    """What a client's distillation was, and its softened answers afterwards; of its own table where none is given."""
    strategy = KTpFL(**fields)
    client = client_of(tiny(strategy, train={"lr": 1e-3}))
    own = strategy.client_update(client, Knowledge()).tensors["probabilities"]
    client.exchange = 1
    upload = strategy.client_update(client, says(own if table is None else table))
    assert not upload.tensors and upload.metrics["cross_entropy"] > 0
    return upload.metrics["distillation"], predict_public(client.net(), client.public_subset()).softmax(1)


def test_the_mixture_moves_the_net_and_ones_own_table_is_at_no_distance() -> None:
    assert taught(None)[0] == pytest.approx(0.0, abs=1e-3)
    far, zero = taught(row(1.0), temperature=2.0)
    assert far > 1.0
    assert bool((zero[:, 0] > taught(row(0.0, 1.0), temperature=2.0)[1][:, 0]).all())


def test_a_client_warms_up_once() -> None:
    """At its first answer only; the next ones are of the net as it is."""
    strategy = KTpFL(warm_up_epochs=2)
    client = client_of(tiny(strategy, train={"lr": 0.1}))
    before = predict_public(client.net(init="own", keep=True), client.public_subset())
    first, second = (strategy.client_update(client, Knowledge()).tensors["probabilities"] for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.allclose(first, (before / 10).softmax(1))


def test_probabilities_of_the_rounds_samples_are_all_that_travels() -> None:
    """4 P C bytes each way, a client and round: 20 samples, 10 classes, 2 clients."""
    last = simulate(tiny(KTpFL(public_per_round=20))).metrics[1]
    assert last["bytes_up"] == last["bytes_down"] == 2 * 4 * 20 * 10


def test_it_needs_public_samples() -> None:
    with pytest.raises(InputError, match="needs a public set"):
        Experiment(strategy="kt_pfl")


@pytest.mark.slow
def test_a_mixture_of_ones_own_teaches_more_than_the_mean_and_than_training_alone() -> None:
    """On the clients' own test digits, 8 clients with uneven labels, mean over seeds 0 to 2: 0.903, 0.880 with c = 1 / K,
    0.894 alone.
    """
    data = {"clients": 8, "partition": "dirichlet", "alpha": 0.3, "min_partition_size": 16, "public": 400, "train_limit": 800}
    train, nets = {"epochs": 3, "batch_size": 16, "lr": 0.05}, {"cnn": 0.5, "mlp": 0.5}
    fixed = {"name": "kt_pfl", "temperature": 1.0, "coefficient_lr": 0.0}
    found = {}
    for name, strategy in {"mixture": fixed | {"coefficient_lr": 1.0}, "mean": fixed, "alone": {"name": "local"}}.items():
        runs = [
            simulate(Experiment(strategy=strategy, seed=seed, rounds=15, evaluate_every=15, nets=nets, data=data, train=train))
            for seed in range(3)
        ]
        found[name] = sum(run.metrics[-1]["client_accuracy"] for run in runs) / 3
        if name == "mixture":
            assert min(run.metrics[-1]["server_own_coefficient"] for run in runs) > 0.2
    assert found["mixture"] > found["mean"] + 0.01
    assert found["mixture"] > found["alone"]
