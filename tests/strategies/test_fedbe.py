"""FedBE: nets drawn around the clients', their sharpened mean, and the average of a student's steps."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import torch
from fedkd.strategies.fedbe import Average, FedBE, dirichlet, global_net, mixed, near
from public_runs import client_of, server_of, tiny
from torch import Tensor

from fedkd import Experiment, InputError, Knowledge, simulate
from fedkd.aggregate import power, weighted_mean
from fedkd.methods.public_distillation import predict_public
from fedkd.strategies import fedbe


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.recomputed("fedbe", by="hand")
def test_a_gaussian_draw_by_hand() -> None:
    """Two clients stepped 3 to the right and 1 up: unit ways (1, 0) and (0, 1), mean length 2, m = 1/2 and v = 1/4 in each."""
    start, nets = torch.tensor([10.0, 20.0]), [torch.tensor([13.0, 20.0]), torch.tensor([10.0, 21.0])]
    assert near(start, nets, 0.0, rng()).tolist() == [11.0, 21.0]
    many = torch.stack([near(start, nets, 0.1, generator) for generator in [rng()] for _ in range(4000)])
    torch.testing.assert_close(many.mean(0), torch.tensor([11.0, 21.0]), atol=0.01, rtol=0)
    torch.testing.assert_close(many.std(0), torch.full((2,), 2 * 0.1 * 0.5), atol=0.005, rtol=0)


def test_a_tensor_that_nobody_moved_stays() -> None:
    start = torch.randn(3, 2, generator=rng())
    assert torch.equal(near(start, [start, start], 0.1, rng()), start)


@pytest.mark.recomputed("fedbe", by="hand")
def test_a_dirichlet_draw_is_a_mean_of_the_nets_whole() -> None:
    nets = [{"w": torch.tensor([0.0, 4.0]), "n": torch.tensor(3)}, {"w": torch.tensor([4.0, 0.0]), "n": torch.tensor(5)}]
    found = mixed(nets, torch.tensor([0.25, 0.75]))
    assert found["w"].tolist() == [3.0, 1.0] and found["n"] == 5
    many = torch.stack([dirichlet(3, 1.0, generator) for generator in [rng()] for _ in range(3000)])
    torch.testing.assert_close(many.sum(1), torch.ones(3000).double())
    torch.testing.assert_close(many.mean(0), torch.full((3,), 1 / 3).double(), atol=0.02, rtol=0)
    assert float(torch.stack([dirichlet(3, 100.0, generator) for generator in [rng()] for _ in range(50)]).std(0).max()) < 0.06


def test_the_average_is_of_every_so_many_steps_after_the_first_ones() -> None:
    net = torch.nn.Linear(1, 1, bias=False)
    average = Average(net, after=3, every=2)  # type: ignore[arg-type]
    for step in range(1, 9):
        torch.nn.init.constant_(net.weight, float(step))
        average.step()
    assert average.state["weight"].item() == (4 + 6 + 8) / 3
    assert Average(net, after=9, every=1).state == {}  # type: ignore[arg-type]


def uploads_of(strategy: FedBE, experiment: Experiment) -> tuple[Any, dict[int, Knowledge]]:
    server = server_of(experiment)
    first = strategy.first_broadcast(server)
    return server, {k: strategy.client_update(client_of(experiment, k), first) for k in range(2)}


@pytest.mark.recomputed("fedbe", by="formula")
@pytest.mark.parametrize("around", ["gaussian", "dirichlet"])
def test_the_students_target_is_the_sharpened_mean_of_clients_mean_and_drawn_nets(around: Any) -> None:
    strategy, seen = FedBE(samples=3, around=around), list[Tensor]()
    experiment = tiny(strategy, train={"lr": 0.1, "epochs": 5})
    server, uploads = uploads_of(strategy, experiment)
    drawn = list[Any]()
    draw = FedBE._drawn

    def watched(self: FedBE, *arguments: Any) -> Any:
        drawn.extend(draw(self, *arguments))
        return list(drawn)

    def look(net: Any, subset: Any, targets: Tensor, *rest: Any, **more: Any) -> dict[str, float]:
        seen.append(targets)
        return {"distillation": 1.0}

    with patch.object(fedbe, "distil", look), patch.object(FedBE, "_drawn", watched):
        told = strategy.server_update(server, uploads)
    middle = weighted_mean(uploads).tensors
    assert all(torch.equal(told.tensors[name], tensor) for name, tensor in middle.items())  # no step was taken
    said = []
    for state in [uploads[0].tensors, uploads[1].tensors, middle, *drawn]:
        net = server.net("looked at")
        net.load_state_dict(dict(state))
        said.append(predict_public(net, server.public).softmax(1))
    assert len(said) == 6
    torch.testing.assert_close(seen[0], power(torch.stack(said).mean(0), 2.0), atol=1e-5, rtol=1e-4)


def test_the_distillation_moves_the_mean_and_the_average_goes_back() -> None:
    strategy = FedBE(samples=1, lr=0.1, epochs=6, batch_size=10)
    experiment = tiny(strategy, train={"lr": 0.1, "epochs": 5})
    server, uploads = uploads_of(strategy, experiment)
    told = strategy.server_update(server, uploads)
    assert not all(torch.equal(told.tensors[name], tensor) for name, tensor in weighted_mean(uploads).tensors.items())
    assert all(torch.equal(told.tensors[name], tensor) for name, tensor in global_net(server).state_dict().items())
    assert server.reported["server_distillation"] > 0
    plain = FedBE(samples=1, lr=0.1, epochs=6, batch_size=10, average_after=1.0)
    other = plain.server_update(*uploads_of(plain, tiny(plain, train={"lr": 0.1, "epochs": 5})))
    assert not all(torch.equal(told.tensors[name], tensor) for name, tensor in other.tensors.items())


def test_it_sends_what_fedavg_sends() -> None:
    rows = {name: simulate(tiny(name)).metrics[1] for name in ("fedbe", "fedavg")}
    assert rows["fedbe"]["bytes_up"] == rows["fedavg"]["bytes_up"] == rows["fedbe"]["bytes_down"]


def test_it_needs_public_samples_and_equal_nets() -> None:
    with pytest.raises(InputError, match="needs a public set"):
        Experiment(strategy="fedbe")
    with pytest.raises(InputError, match="the same net at all clients"):
        Experiment(strategy="fedbe", nets="mlp:0.5,cnn:0.5", data={"public": 30})


@pytest.mark.slow
def test_where_nets_drift_apart_it_beats_averaging() -> None:
    """5 clients with uneven labels, a net with batch statistics, 30 epochs before the only exchange: 0.40 and 0.32 (seed 0)."""
    data = {"clients": 5, "partition": "dirichlet", "alpha": 0.5, "self_balancing": True, "public": 400, "train_limit": 650}
    how = {"rounds": 1, "nets": "cnn", "net_options": {"cnn": {"norm": "batch"}}, "data": data}
    train, be = {"epochs": 30, "batch_size": 16, "lr": 0.05}, {"name": "fedbe", "lr": 0.02, "batch_size": 32}
    found = {
        strategy["name"]: simulate(Experiment(strategy=strategy, train=train, **how)).metrics[-1]["accuracy"]  # type: ignore[arg-type]
        for strategy in ({"name": "fedavg"}, be)
    }
    assert found["fedbe"] > found["fedavg"] + 0.03
