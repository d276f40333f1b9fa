"""FedKT: cuts of a party's samples, consistent votes, noise where it is said, and a final net."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import torch
from fedkd.strategies.fedkt import FedKT, cut_into, final_net
from public_runs import client_of, server_of, tiny
from torch import Tensor

from fedkd import Experiment, InputError, Knowledge, Server, simulate
from fedkd.methods.public_distillation import predict_public
from fedkd.strategies import fedkt

SMALL = {"partitions": 2, "teachers": 2}


def named(*classes: int) -> Tensor:
    """Logits of 30 public samples, the first ones named so, the others of class 9."""
    return torch.nn.functional.one_hot(torch.tensor([*classes, *[9] * (30 - len(classes))]), 10).float() * 5


def taught(strategy: FedKT, *parties: list[Tensor]) -> tuple[Server, list[int], list[int]]:
    """What the final net is taught where students say so: places and classes. Their weights are made up."""
    server, seen = server_of(tiny(strategy, data={"clients": len(parties)})), []

    def look(net: Any, subset: Any, targets: Tensor, *rest: Any, **more: Any) -> dict[str, float]:
        order = strategy._public(server).samples.indices.tolist()
        seen.append([[order.index(id) for id in subset.samples.indices.tolist()], targets.argmax(1).tolist()])
        assert bool((targets.sum(1) == 1).all())
        return {"distillation": 1.0}

    said = {client: tables for client, tables in enumerate(parties)}
    uploads = {client: Knowledge.of("weights", {"0/made.up": torch.zeros(1)}) for client in said}
    with (
        patch.object(FedKT, "_answers", lambda self, server, client, held, public: said[client]),
        patch.object(fedkt, "distil", look),
    ):
        strategy.server_update(server, uploads)
    return server, *(seen[0] if seen else ([], []))


@pytest.mark.recomputed("fedkt", by="hand")
def test_only_parties_whose_students_agree_are_counted() -> None:
    """Sample 0: one party of two says 1, whose students agree; the other says 2 and 3. Sample 1: nobody agrees."""
    one, two = [named(1, 4), named(1, 5)], [named(2, 6), named(3, 7)]
    server, places, classes = taught(FedKT(**SMALL), one, two)
    assert places == [0, *range(2, 30)]
    assert classes == [1, *[9] * 28]
    assert server.reported["server_answered"] == 29 / 30


@pytest.mark.recomputed("fedkt", by="hand")
def test_two_parties_outvote_one_and_a_threshold_asks_for_more() -> None:
    parties = [[named(1, 1)] * 2, [named(2, 2)] * 2, [named(2, 3)] * 2]
    assert taught(FedKT(**SMALL), *parties)[1:] == ([*range(30)], [2, 1, *[9] * 28])  # 2 : 2, equally likely
    assert taught(FedKT(**SMALL, threshold=4.0), *parties)[1:] == ([0, *range(2, 30)], [2, *[9] * 28])
    assert taught(FedKT(**SMALL, threshold=0.0), [named(1), named(2)])[1:] == ([*range(30)], [1, *[9] * 29])


def test_noise_turns_votes_at_the_server_only_where_it_is_asked_for() -> None:
    parties = [[named(1)] * 2] * 2
    assert taught(FedKT(**SMALL, gamma=1e9), *parties)[2] == [1, *[9] * 29]
    assert taught(FedKT(**SMALL, gamma=1e-3, noise_at="party"), *parties)[2] == [1, *[9] * 29]
    assert len(set(taught(FedKT(**SMALL, gamma=1e-3, threshold=0.0), *parties)[2])) > 4


def labels_of_students(strategy: FedKT) -> list[Tensor]:
    """What each student of a party is taught, and what its teachers named most often."""
    seen = []
    with patch.object(fedkt, "distil", lambda net, subset, targets, *_, **__: seen.append(targets) or {"distillation": 1.0}):
        strategy.client_update(client_of(tiny(strategy)), Knowledge())
    return seen


def test_noise_turns_teachers_votes_at_the_party_only_where_it_is_asked_for() -> None:
    plain = labels_of_students(FedKT(**SMALL))
    assert len(plain) == 2 and not torch.equal(*plain)
    for strategy, same in ((FedKT(**SMALL, gamma=1e-3), True), (FedKT(**SMALL, gamma=1e-3, noise_at="party"), False)):
        assert all(torch.equal(a, b) == same for a, b in zip(plain, labels_of_students(strategy), strict=True))


def test_each_cut_deals_out_all_samples() -> None:
    parts = cut_into(23, 5, torch.Generator().manual_seed(0))
    assert sorted(torch.cat(parts).tolist()) == [*range(23)] and [len(part) for part in parts] == [5, 5, 5, 4, 4]
    assert [len(part) for part in cut_into(1, 5, torch.Generator())] == [1]
    assert [len(part) for part in cut_into(5, 5, torch.Generator())] == [3, 2]


def test_students_are_what_travels_and_the_final_net_learns() -> None:
    """s |θ| elements up, a client and round; nothing down."""
    strategy = FedKT(**SMALL)
    client, server = (make(tiny(strategy, train={"lr": 0.1})) for make in (client_of, server_of))
    upload = strategy.client_update(client, Knowledge())
    assert {name: tuple(tensor.shape) for name, tensor in upload.tensors.items()} == {
        name: spec.shape for name, spec in strategy.upload_schema(server, 0).items()
    }
    before = predict_public(final_net(server), server.public)
    strategy.server_update(server, {0: upload})
    assert not torch.equal(before, predict_public(final_net(server), server.public))
    weights = sum(tensor.numel() for tensor in client.net("student 0").state_dict().values())
    last = simulate(tiny(strategy)).metrics[1]
    assert (last["bytes_up"], last["bytes_down"]) == (2 * 2 * 4 * weights, 0)


def test_a_student_learns_its_teachers_labels_and_not_the_samples_alone() -> None:
    strategy = FedKT(partitions=1, teachers=1, student_epochs=30)
    client = client_of(tiny(strategy, train={"lr": 0.1}))
    strategy.client_update(client, Knowledge())
    public = client.public_subset(round=0)
    pair = [predict_public(client.net(name), public).argmax(1) for name in ("teacher 0 of cut 0", "student 0")]
    assert float((pair[0] == pair[1]).float().mean()) > 0.8


def test_it_needs_public_samples() -> None:
    with pytest.raises(InputError, match="needs a public set"):
        Experiment(strategy="fedkt")


@pytest.mark.slow
def test_in_one_round_it_beats_training_alone_and_noise_costs() -> None:
    """5 clients with uneven labels, 400 public digits; the final net against the mean of clients' own (0.77 and 0.61)."""
    data = {"clients": 5, "partition": "dirichlet", "alpha": 0.5, "self_balancing": True, "public": 400}
    how = {"rounds": 1, "nets": {"cnn": 0.5, "mlp": 0.5}, "data": data}
    train, kt = {"epochs": 20, "batch_size": 16, "lr": 0.05}, {"name": "fedkt", **SMALL}
    found = {
        name: simulate(Experiment(strategy=strategy, train=train, **how)).metrics[-1]["accuracy"]
        for name, strategy in {"local": {"name": "local"}, "kt": kt, "noisy": {**kt, "gamma": 0.5}}.items()
    }
    assert found["kt"] > found["local"] + 0.05
    assert found["noisy"] < found["kt"] - 0.1
