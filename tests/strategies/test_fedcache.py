"""FedCache: neighbours of one's own label among all clients' samples, and what their nets last said of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fedkd.strategies.fedcache import NEIGHBOURS, FedCache, LastOutputs, mean_of_neighbours, nearest_of_label
from public_runs import client_of, server_of, tiny
from torch import Tensor

from fedkd import Experiment, InputError, Knowledge, predict, simulate

pytestmark = pytest.mark.filterwarnings("ignore::fedkd.base.errors.Notice")
C, D = 10, 8


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def says(logits: Tensor, hashes: Tensor | None = None, labels: list[int] | None = None) -> Knowledge:
    upload = Knowledge.of("logits", {"logits": logits}, weight=len(logits))
    if hashes is None or labels is None:
        return upload
    told = {"labels": torch.tensor(labels, dtype=torch.int32)}
    return upload.with_tensors("embedding", {"hashes": hashes}).with_tensors("labels", told)


def teachers(answer: Any) -> dict[int, Tensor]:
    return {client: knowledge.tensors["teachers"] for client, knowledge in answer.items()}


def test_a_sample_is_never_its_own_neighbour_and_all_are_of_its_label() -> None:
    """Each hash stands twice, so that its double is nearest, and not itself."""
    hashes, labels = draws(60, 4).repeat(2, 1), torch.arange(60).repeat(2) % 4
    found = nearest_of_label(hashes, labels, 5)
    assert found.shape == (120, 5)
    assert bool((found != torch.arange(120)[:, None]).all())
    assert bool((labels[found] == labels[:, None]).all())
    assert found[:60, 0].tolist() == list(range(60, 120)) and found[60:, 0].tolist() == list(range(60))


def test_neighbours_are_by_cosine_the_nearest_first() -> None:
    hashes, labels = draws(300, 6), torch.zeros(300)
    units = hashes / hashes.norm(dim=1, keepdim=True)
    likeness = (units @ units.T).fill_diagonal_(-2.0)
    assert torch.equal(nearest_of_label(hashes * torch.rand(300, 1).add(0.1), labels, 3), likeness.topk(3, dim=1).indices)


def test_a_label_of_few_samples_has_as_many_neighbours_as_there_are_others() -> None:
    found = nearest_of_label(draws(5, 3), torch.tensor([2, 2, 2, 4, 6]), 16)
    assert (found >= 0).sum(1).tolist() == [2, 2, 2, 0, 0]
    rows, counts = mean_of_neighbours(draws(5, C), found)
    assert counts.tolist() == [2, 2, 2, 0, 0] and not bool(rows[3:].any())


@pytest.mark.recomputed("fedcache", by="hand")
def test_the_server_by_hand_as_clients_come_go_and_come_late() -> None:
    """Label 1 at clients 0 and 2: hashes at 0, 10 and 80 degrees. With one neighbour: 10 is nearest to both others."""
    strategy, server = FedCache(neighbours=1), server_of(tiny("fedcache"))
    at = torch.deg2rad(torch.tensor([0.0, 80.0, 10.0]))
    hashes = torch.zeros(3, D)
    hashes[:, 0], hashes[:, 1] = at.cos(), at.sin()
    first = draws(2, C)
    taught = teachers(strategy.server_update(server, {2: says(first, hashes[:2], [1, 1])}))
    assert {*taught} == {2} and torch.equal(taught[2], first.flip(0))
    other = draws(2, C, seed=1)
    taught = teachers(strategy.server_update(server, {0: says(other, torch.stack([hashes[2], hashes[2]]), [1, 3])}))
    assert torch.equal(taught[2], other[[0, 0]])
    assert torch.equal(taught[0], torch.stack([first[0], torch.zeros(C)]))  # of label 3 there is no other
    assert server.reported == {"server_taught": 0.75, "server_neighbours": 0.75}
    again = torch.stack([torch.zeros(C), draws(C, seed=2)])  # of the first sample it says nothing: what it said stays
    taught = teachers(strategy.server_update(server, {2: says(again)}))
    assert torch.equal(taught[0][0], first[0]) and torch.equal(taught[2], other[[0, 0]])
    assert server.memory.tensor(NEIGHBOURS).shape == (4, 1)


def test_two_clients_at_once_are_as_one_after_the_other() -> None:
    strategy, labels = FedCache(neighbours=3), [0, 1, 0, 1, 0]
    uploads = {client: says(draws(5, C, seed=client), draws(5, D, seed=client + 9), labels) for client in (0, 3)}
    together, apart = server_of(tiny("fedcache")), server_of(tiny("fedcache"))
    expected = teachers(strategy.server_update(together, uploads))
    strategy.server_update(apart, {3: uploads[3]})
    found = teachers(strategy.server_update(apart, {0: uploads[0]}))
    assert all(torch.equal(rows, found[client]) for client, rows in expected.items())


def test_a_client_tells_of_its_samples_until_it_is_answered() -> None:
    client = client_of(tiny("fedcache", train={"lr": 1e-9}))
    for _ in range(2):  # the first may have been lost
        upload = FedCache().client_update(client, Knowledge())
        assert {*upload.tensors} == {"logits", "hashes", "labels"}
    samples = client.train.samples
    assert upload.tensors["labels"].tolist() == samples.labels[samples.indices].tolist()
    alike = predict(client.net().eval(), samples, client.work())
    torch.testing.assert_close(upload.tensors["logits"], alike, atol=1e-5, rtol=1e-5)
    other = client_of(tiny("fedcache"), 1).net("hash", architecture="mlp")  # another client, the same hashes
    torch.testing.assert_close(upload.tensors["hashes"], predict(other.eval().features, samples, client.work()))
    answered = Knowledge.of("logits", {"teachers": upload.tensors["logits"]})
    assert {*FedCache().client_update(client, answered).tensors} == {"logits"}


def test_of_a_sample_the_last_output_is_kept_without_its_graph() -> None:
    last = LastOutputs(samples=4, width=2)
    for value in (1.0, 2.0):
        last.put(torch.tensor([3, 1]), torch.full((2, 2), value, dtype=torch.bfloat16, requires_grad=True))
    assert last.values().tolist() == [[0.0, 0.0], [2.0, 2.0], [0.0, 0.0], [2.0, 2.0]]
    assert not last.values().requires_grad and last.values().dtype == torch.float32


def test_what_a_net_says_itself_teaches_it_nothing() -> None:
    client = client_of(tiny("fedcache", train={"lr": 1e-9}))
    own = FedCache().client_update(client, Knowledge())
    assert own.metrics["distillation"] == 0.0  # without a teacher
    taught = FedCache().client_update(client, Knowledge.of("logits", {"teachers": own.tensors["logits"]}))
    assert taught.metrics["distillation"] == pytest.approx(0.0, abs=1e-6)
    shifted = Knowledge.of("logits", {"teachers": own.tensors["logits"] + draws(C)})
    assert FedCache().client_update(client, shifted).metrics["distillation"] > 0.01


def test_teachers_move_the_net() -> None:
    shares = []
    for label in (0, 1):
        client = client_of(tiny("fedcache"))
        rows = 5 * torch.nn.functional.one_hot(torch.full((len(client.train),), label), C).float()
        FedCache().client_update(client, Knowledge.of("logits", {"teachers": rows}))
        shares.append(predict(client.net().eval(), client.train.samples, client.work()).softmax(1)[:, 0])
    assert bool((shares[0] > shares[1]).all())


def test_without_weight_it_is_local() -> None:
    mine, theirs = (simulate(tiny(strategy, rounds=2)) for strategy in (FedCache(weight=0.0), "local"))
    for ours, other in zip(mine.metrics, theirs.metrics, strict=True):
        for key in ("accuracy", "client_accuracy", *(("cross_entropy",) if other["round"] else ())):
            assert ours[key] == other[key]


def test_hashes_travel_once_and_logits_each_round() -> None:
    """n (4 C + 4 D + 4) bytes up at first, then 4 n C each way, n samples of 2 clients."""
    experiment = tiny("fedcache", rounds=3)
    samples = sum(len(client_of(experiment, k).train) for k in (0, 1))
    rows = simulate(experiment).metrics[1:]
    assert [row["bytes_up"] for row in rows] == [samples * (4 * C + 4 * D + 4), *[samples * 4 * C] * 2]
    assert [row["bytes_down"] for row in rows] == [0, *[samples * 4 * C] * 2]
    assert [row["distillation"] > 0 for row in rows] == [False, True, True]


@pytest.mark.slow
def test_clients_that_come_seldom_or_drop_out_are_taught_once_they_were_heard() -> None:
    faults = {"dropout": 0.3}
    data = {"clients": 5, "train_limit": 150}
    experiment = tiny("fedcache", rounds=8, participation=0.6, faults=faults, data=data)
    history = simulate(experiment)
    heard: set[int] = set()
    for row in history.metrics[1:]:
        answered = {line["client"] for line in history.clients if line["round"] == row["round"] and line.get("status") == "ok"}
        sizes = {k: len(client_of(experiment, k).train) for k in answered}
        new = answered - heard
        assert row["bytes_up"] == sum(n * (4 * C + (4 * D + 4) * (k in new)) for k, n in sizes.items())
        heard |= answered
    assert heard == set(range(5))


def test_a_client_whose_samples_have_changed_is_told_so() -> None:
    client = client_of(tiny("fedcache"))
    with pytest.raises(InputError, match=r"told of 3 samples of client 0, which has \d+: a client's samples must stay"):
        FedCache().client_update(client, Knowledge.of("logits", {"teachers": torch.zeros(3, C)}))


class Logits(torch.nn.Module):
    """No layer of it makes features of a sample."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(shape[1] * shape[2], classes))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight


def test_nets_may_differ_and_the_first_needs_features() -> None:
    mixed = {"nets": {"cnn": 0.5, "mlp": 0.5}, "net_options": {"mlp": {"hidden": [6]}, "cnn": {"hidden": 8}}}
    assert simulate(tiny("fedcache", **mixed)).metrics[1]["clients_ok"] == 2
    with pytest.raises(InputError, match="features"):
        simulate(tiny("fedcache", nets=Logits, net_options={}))


@pytest.mark.slow
def test_neighbours_of_all_clients_beat_training_alone() -> None:
    """10 nets, seed 0 (1, 2). Own samples: 0.960 (0.924, 0.932) against 0.941 (0.905, 0.911) alone; all: 0.684 (0.717, 0.679)
    against 0.660 (0.679, 0.664). At temperature 1 nothing is gained: the teachers say little beside the label that all share.
    """
    means = {}
    for name in ("fedcache", "local"):
        data = {"clients": 10, "partition": "dirichlet", "alpha": 0.5, "min_partition_size": 8}
        train = {"optimizer": "adam", "lr": 0.002, "batch_size": 16, "epochs": 3}
        experiment = Experiment(strategy=name, rounds=15, seed=0, nets="mlp", data=data, train=train, evaluate_every=15)
        row = simulate(experiment).metrics[-1]
        means[name] = [row[key] for key in ("accuracy", "client_accuracy")]
    assert means["fedcache"][0] > means["local"][0] + 0.01
    assert means["fedcache"][1] > means["local"][1] + 0.01
