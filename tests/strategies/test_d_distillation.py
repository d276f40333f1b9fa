"""D-Distillation: consensus by hand and under failures, the loss, what travels along edges, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fedkd.strategies.d_distillation as d_distillation_module
import pytest
import torch
from fedkd.strategies.d_distillation import DDistillation, mix, mix_received, mixing, route
from public_runs import client_of, server_of, tiny
from torch import Tensor

from fedkd import Experiment, Knowledge, simulate
from fedkd.base.errors import InputError
from fedkd.grids import InProcessGrid
from fedkd.knowledge.codecs import as_decoded, chain
from fedkd.knowledge.memory import Memory

RING = mixing("ring", 4, 4, 0)  # Metropolis weights of 1/3 each


def said(value: float) -> Knowledge:
    """A table of one sample and two classes."""
    return Knowledge.of("embedding", {"z": torch.tensor([[value, 1 - value]])})


def holding(value: float) -> Memory:
    return Memory({"z": said(value).tensors["z"]})


@pytest.mark.recomputed("d_distillation", by="hand")
def test_on_a_complete_graph_everybody_holds_the_mean_after_one_exchange() -> None:
    neighbours, weights = mixing("full", 4, 4, 0)
    values = (0.0, 0.2, 0.4, 1.0)
    passed = route({k: said(v) for k, v in enumerate(values)}, "z", neighbours, round=1)
    for client, value in enumerate(values):
        assert mix_received(holding(value), passed[client], "z", weights[client]).tolist()[0] == pytest.approx([0.4, 0.6])


@pytest.mark.recomputed("d_distillation", by="hand")
def test_on_a_ring_a_third_of_oneself_and_of_each_neighbour() -> None:
    values = (0.0, 0.3, 0.6, 0.9)
    passed = route({k: said(v) for k, v in enumerate(values)}, "z", RING[0], round=1)
    assert passed[0].tensors["z"].shape == (2, 1, 2)
    assert mix_received(holding(0.0), passed[0], "z", RING[1][0])[0, 0].item() == pytest.approx((0.0 + 0.3 + 0.9) / 3)


@pytest.mark.recomputed("d_distillation", by="hand")
def test_an_edge_counts_only_if_both_ends_uploaded() -> None:
    """Client 2 failed: 1 and 3 hear client 0 alone and put client 2's weight on themselves; 2 hears nothing."""
    passed = route({0: said(0.0), 1: said(0.3), 3: said(0.9)}, "z", RING[0], round=1)
    assert passed.keys() == {0, 1, 3}
    assert passed[1].header["heard_from"] == "0"
    found = {k: mix_received(holding(v), passed[k], "z", RING[1][k])[0, 0].item() for k, v in ((0, 0.0), (1, 0.3), (3, 0.9))}
    assert found == pytest.approx({0: 0.4, 1: 0.2, 3: 0.6})
    assert sum(found.values()) == pytest.approx(0.0 + 0.3 + 0.9)
    assert mix_received(holding(0.6), Knowledge(), "z", RING[1][2])[0, 0].item() == pytest.approx(0.6)
    assert route({0: said(0.0), 2: said(0.6)}, "z", RING[0], round=1) == {}  # no two of them are neighbours


def test_what_is_passed_twice_is_mixed_once() -> None:
    memory, passed = holding(0.0), route({0: said(0.0), 1: said(0.9)}, "z", RING[0], round=5)[0]
    memory["z"] = mix_received(memory, passed, "z", RING[1][0])
    assert memory.tensor("z")[0, 0].item() == pytest.approx(0.3)
    assert torch.equal(mix_received(memory, passed, "z", RING[1][0]), memory.tensor("z"))


def test_mixing_keeps_the_sum_of_a_row() -> None:
    rng = torch.Generator().manual_seed(0)
    own, heard = torch.randn(6, 3, generator=rng).softmax(1), torch.randn(2, 6, 3, generator=rng).softmax(2)
    torch.testing.assert_close(mix(own, heard, torch.tensor([0.5, 0.2])).sum(1), torch.ones(6))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("graph", "changes"),
    [
        ("ring", {}),
        ("full", {}),
        ("ring", {"participation": 0.5}),
        ("ring", {"uplink": "int8", "downlink": "float16"}),
        ("full", {"uplink": "bfloat16", "downlink": "int8", "participation": 0.6}),
        ("ring", {"faults": {"dropout": 0.2, "crash": 0.2, "nan": 0.2, "straggle": 0.2}}),
    ],
)
def test_the_mean_of_all_estimates_stays_the_mean_of_all_decisions(
    graph: Any, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any time, once everybody has mixed what waits for it: the invariant of dynamic consensus, whoever failed."""
    grid, waiting, checked = InProcessGrid(), dict[int, Knowledge](), []

    def routed(*arguments: Any, **rest: Any) -> dict[int, Knowledge]:
        passed = route(*arguments, **rest)
        waiting.update({k: as_decoded(chain(experiment.downlink), each) for k, each in passed.items()})
        return passed

    def check(row: dict[str, Any]) -> None:
        memories = {k: Memory.read(state) for k, state in grid.states().items()}
        met = {k: memory for k, memory in memories.items() if "consensus" in memory}
        s = [memory.tensor("decisions") for memory in met.values()]
        weights = mixing(graph, 5, 4, 0)[1]
        z = [mix_received(memory, waiting.get(k, Knowledge()), "consensus", weights[k]) for k, memory in met.items()]
        if met:
            torch.testing.assert_close(torch.stack(z).mean(0), torch.stack(s).mean(0), atol=1e-5, rtol=0)
            checked.append(row["round"])

    monkeypatch.setattr(d_distillation_module, "route", routed)
    data = {"clients": 5, "train_limit": 100, "public": 20}
    experiment = tiny(DDistillation(graph=graph), rounds=6, data=data, **changes)
    simulate(experiment, grid, on_round=check)
    assert len(checked) >= 5


@pytest.mark.parametrize("links", [{}, {"uplink": "int8"}, {"uplink": "float16", "downlink": "int8"}])
def test_a_client_keeps_what_its_neighbours_read(links: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    read: dict[tuple[int, int], Tensor] = {}

    def heard(memory: Memory, passed: Knowledge, name: str, weights: Tensor) -> Tensor:
        for other, table in zip(
            str(passed.header.get("heard_from", "")).split(","), passed.tensors.get(name, ()), strict=False
        ):
            read[int(passed.header["heard_in"]), int(other)] = table
        return mix_received(memory, passed, name, weights)

    grid, kept = InProcessGrid(), dict[tuple[int, int], Tensor]()

    def look(row: dict[str, Any]) -> None:
        for client, state in grid.states().items():
            kept[row["round"], client] = Memory.read(state).tensor("consensus")

    monkeypatch.setattr(d_distillation_module, "mix_received", heard)
    simulate(tiny(DDistillation(), rounds=3, data={"clients": 3, "train_limit": 90}, **links), grid, on_round=look)
    assert read.keys() == {(round, client) for round in (1, 2) for client in range(3)}
    assert all(torch.equal(table, kept[place]) for place, table in read.items())


def test_svd_would_cut_several_neighbours_tables_as_one() -> None:
    with pytest.raises(InputError, match="downlink: svd90 would cut the tables of several neighbours as one"):
        tiny("d_distillation", downlink="svd90")
    assert tiny("d_distillation", uplink="svd90").uplink == ("svd90",)


def parts_of_a_batch(rho: float, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Tensor], Any, Any, Any]:
    """The parts of the loss, the net, the client and the batch, where everybody else is sure of class 0."""
    seen: list[Any] = []

    def look(net: Any, data: Any, loss: Callable[..., dict[str, Tensor]], **_: Any) -> dict[str, float]:
        batch = next(data.batches(epochs=1, batch_size=8, rng=torch.Generator().manual_seed(0)))
        seen.extend((loss(net, batch), net, batch))
        return {}

    monkeypatch.setattr(d_distillation_module, "fit", look)
    client = client_of(tiny(DDistillation(rho=rho), data={"clients": 3}, train={"batch_size": 30}))
    client.memory["consensus"] = client.memory["decisions"] = sure(0)
    DDistillation(rho=rho).client_update(client, Knowledge())
    return seen[0], seen[1], client, seen[2]


def sure(label: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.full((30,), label), 10).float()


@pytest.mark.recomputed("d_distillation", by="formula")
def test_a_client_is_drawn_towards_the_consensus_by_half_of_rho_times_the_squared_distance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A batch of all 30 public samples: then the mean over the batch is that over R."""
    parts, net, client, batch = parts_of_a_batch(3.0, monkeypatch)
    public = client.public.samples
    images = next(client.public.batches(epochs=1, batch_size=30, rng=torch.Generator())).inputs
    s = net(images).double().softmax(1)
    expected = 3.0 / 2 * (s - sure(0)[: len(public)].double()).square().sum(1).mean()
    assert parts["consensus"].item() == pytest.approx(expected.item(), rel=1e-4)
    own = -net(batch.inputs).double().log_softmax(1)[torch.arange(len(batch)), batch.labels].mean()
    assert parts["cross_entropy"].item() == pytest.approx(own.item(), rel=1e-4)


@pytest.mark.recomputed("d_distillation", by="formula")
def test_a_first_estimate_is_ones_own_and_the_next_ones_move_as_ones_decisions_do() -> None:
    client, strategy = client_of(tiny("d_distillation", data={"clients": 3})), DDistillation()
    first = strategy.client_update(client, Knowledge()).tensors["consensus"]
    s = client.memory.tensor("decisions").clone()
    assert torch.equal(first, s)
    client.memory["consensus"] = sure(0)
    second = strategy.client_update(client, Knowledge()).tensors["consensus"]
    torch.testing.assert_close(second, sure(0) + client.memory.tensor("decisions") - s)


@pytest.mark.slow
def test_the_consensus_moves_the_nets() -> None:
    data = {"clients": 3, "train_limit": 80}
    some, none = (simulate(tiny(DDistillation(rho=rho), rounds=3, data=data)).metrics[3] for rho in (5.0, 0.0))
    assert some["consensus"] > 0 == none["consensus"]
    assert some["cross_entropy"] != none["cross_entropy"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("graph", "clients", "edges"), [("ring", 5, 2), ("full", 5, 4), ("random_regular", 6, 4), ("torus", 9, 4)]
)
def test_bytes_along_edges(graph: str, clients: int, edges: int) -> None:
    """20 reference samples of 10 classes are 800 bytes: up once, down once for each edge into a client."""
    data = {"clients": clients, "train_limit": 30 + 10 * clients, "partition": "iid"}
    rows = simulate(tiny(DDistillation(graph=graph, public_samples=20), rounds=2, data=data)).metrics  # type: ignore[arg-type]
    assert [row["bytes_up"] for row in rows[1:]] == [800 * clients] * 2
    assert [row["bytes_down"] for row in rows[1:]] == [0, 800 * clients * edges]
    assert [row["edges"] for row in rows[1:]] == pytest.approx([0, edges])
    assert [row["edge_bytes"] for row in rows[1:]] == pytest.approx([0, 800])


def test_an_impossible_graph_is_refused_before_anything_runs() -> None:
    with pytest.raises(InputError, match="random_regular"):
        simulate(tiny(DDistillation(graph="random_regular", degree=3), data={"clients": 3}))


@pytest.mark.parametrize(("column", "value"), [(0, 0.5), (slice(0, 2), torch.tensor([1e5, -1e5]))])
def test_an_upload_that_is_no_consensus_is_refused(column: Any, value: Any) -> None:
    server = server_of(tiny("d_distillation"))
    DDistillation().check_upload(server, Knowledge.of("embedding", {"consensus": sure(3)}))
    table = sure(3)
    table[4, column] = value
    with pytest.raises(ValueError, match="does not sum to 1, or a value beyond 10"):
        DDistillation().check_upload(server, Knowledge.of("embedding", {"consensus": table}))


@pytest.mark.slow
def test_clients_know_more_than_alone() -> None:
    """Seen on digits, 8 clients of about 30 samples on a ring, two kinds of nets: on the global test set 72.9 %, alone 53.9 %
    (its error: 2.6 %).
    """
    data = {"clients": 8, "alpha": 1.0, "min_partition_size": 10, "public": 500, "validation": 100, "train_limit": 840}
    train = {"lr": 0.05, "batch_size": 16, "epochs": 5}
    settings = {"rounds": 20, "nets": {"cnn": 0.5, "mlp": 0.5}, "data": data, "train": train}
    found, alone = (simulate(Experiment(strategy=name, **settings)).metrics[-1] for name in ("d_distillation", "local"))
    assert found["accuracy"] > alone["accuracy"] + 0.1
