"""MHD: the chain of heads by hand and along a line, what is passed on, what travels, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fedkd.strategies.mhd as mhd_module
import pytest
import torch
import torch.nn.functional as F
from fedkd.strategies.mhd import MHD, chain_loss, most_confident, relayed, squared_distance
from public_runs import client_of, few_samples, server_of, tiny
from torch import Tensor, nn

from fedkd import Batch, InputError, Knowledge, predict, simulate
from fedkd.aggregate.topology import graph
from fedkd.engine.export import Choice, export

pytestmark = pytest.mark.filterwarnings("ignore::fedkd.base.errors.Notice")


def small(strategy: Any = "mhd", **changes: Any) -> Any:
    return tiny(strategy, **{**changes, "data": {"clients": 3, "train_limit": 90, **changes.get("data", {})}})


def said(seed: int, samples: int = 30, heads: int = 2) -> Knowledge:
    """What a client with features of 8 numbers uploads."""
    rng = torch.Generator().manual_seed(seed)
    tables = {f"head_{k}": (3 * torch.randn(samples, 10, generator=rng)).softmax(1) for k in range(heads)}
    directions = F.normalize(torch.randn(samples, 8, generator=rng), dim=1)
    return Knowledge.of("probabilities", tables).with_tensors("embedding", {"directions": directions})


def trained(
    strategy: MHD, broadcast: Knowledge, monkeypatch: pytest.MonkeyPatch, **changes: Any
) -> tuple[Any, Batch, Callable[[], dict[str, Tensor]], Any]:
    """What a client would train, its batch, the parts of its loss, and the public batch that these speak of."""
    seen: list[Any] = []

    def look(nets: Any, data: Any, loss: Any, *, given: Any = (), **_: Any) -> dict[str, float]:
        batch = next(data.batches(epochs=1, batch_size=8, rng=torch.Generator().manual_seed(0)))
        seen.extend((nets, batch, lambda: loss(nets, batch, *given)))
        return {}

    monkeypatch.setattr(mhd_module, "fit", look)
    client = client_of(small(strategy, **changes))
    client.round = 4
    strategy.client_update(client, broadcast)
    round = int(broadcast.header["round"])
    shown = next(client.public_subset(strategy.public_per_round, round=round).stream("public"))
    return seen[0], seen[1], seen[2], shown


@pytest.mark.recomputed("mhd", by="formula")
def test_the_loss_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two heads more, two neighbours, answers about 20 public samples of an earlier round."""
    others = {1: said(1, 20), 2: said(2, 20)}
    strategy = MHD(heads=2, distillation_weight=0.5, embedding_weight=0.25, public_per_round=20)
    nets, batch, loss, shown = trained(strategy, relayed(others, 3), monkeypatch, train={"batch_size": 8})
    parts = loss()
    net, heads = nets["net"], nets["heads"]
    own = -net(batch.inputs).double().log_softmax(1)[torch.arange(8), batch.labels].mean()
    features = net.features(shown.inputs)
    log_p = [net.head("classifier", features).double().log_softmax(1), *(h(features).double().log_softmax(1) for h in heads)]
    whole = torch.zeros((), dtype=torch.float64)
    for k in (1, 2):
        for row, place in enumerate(shown.positions.tolist()):
            rivals = [log_p[k - 1][row].exp(), *(other.tensors[f"head_{k - 1}"][place].double() for other in others.values())]
            target = max(rivals, key=lambda p: p.max().item())
            whole = whole - (target * log_p[k][row]).sum() / len(shown)
    f = F.normalize(features.double(), dim=1)
    gaps = [(f - other.tensors["directions"][shown.positions]).square().sum(1).mean() for other in others.values()]
    expected = {
        "cross_entropy": own.item(),
        "distillation": 0.5 * whole.item(),
        "embedding_distillation": 0.25 * sum(gaps).item() / 2,  # type: ignore[union-attr]
    }
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(expected, rel=1e-4)


def test_the_answers_are_about_the_samples_of_their_round(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, loss, shown = trained(MHD(public_per_round=8), relayed({1: said(1, 8, 4)}, 3), monkeypatch)
    client = client_of(small())
    assert set(shown.ids.tolist()) == set(client.public_subset(8, round=3).samples.indices.tolist())
    assert set(shown.ids.tolist()) != set(client.public_subset(8, round=4).samples.indices.tolist())
    assert loss()["distillation"] > 0


def test_each_part_moves_what_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Auxiliary heads learn from the main one, which is a constant then; the embedding term moves no head."""
    moved: dict[str, set[str]] = {}
    for part in ("cross_entropy", "distillation", "embedding_distillation"):
        nets, _, loss, _ = trained(MHD(heads=2), relayed({1: said(1)}, 3), monkeypatch)
        loss()[part].backward()
        named = {
            "encoder": nets["net"].encoder,
            "main": nets["net"].classifier,
            **{str(k): h for k, h in enumerate(nets["heads"])},
        }
        moved[part] = {
            name
            for name, module in named.items()
            if any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())
        }
    assert moved == {
        "cross_entropy": {"encoder", "main"},
        "distillation": {"encoder", "0", "1"},
        "embedding_distillation": {"encoder"},
    }


@pytest.mark.recomputed("mhd", by="hand")
def test_the_surest_teaches_and_ones_own_answer_competes() -> None:
    own = torch.tensor([[[0.0, 8.0]], [[0.0, 0.0]]]).log1p()  # main head (1/10, 9/10), head 1 (1/2, 1/2)
    for theirs, target in (((0.2, 0.8), (0.1, 0.9)), ((0.95, 0.05), (0.95, 0.05))):
        logits = own.clone().requires_grad_()
        chain_loss(logits, torch.tensor([[theirs]])).backward()
        assert logits.grad is not None and not logits.grad[0].any()
        torch.testing.assert_close(logits.grad[1, 0], torch.tensor([0.5, 0.5]) - torch.tensor(target))


def test_the_server_picks_as_a_client_would_of_all_its_neighbours() -> None:
    uploads = {k: said(k) for k in (1, 2, 5)}
    passed = relayed(uploads, 7)
    assert dict(passed.header) == {"round": 7, "neighbours": 3}
    own = torch.randn(3, 30, 10, generator=torch.Generator().manual_seed(9))
    heard = torch.stack([passed.tensors[f"head_{k}"] for k in range(2)])
    whole = torch.stack([torch.stack([each.tensors[f"head_{k}"] for k in range(2)]) for each in uploads.values()])
    torch.testing.assert_close(chain_loss(own, heard), chain_loss(own, most_confident(whole)))
    features = own[0, :, :8]
    each = [squared_distance(features, upload.tensors["directions"]) for upload in uploads.values()]
    torch.testing.assert_close(squared_distance(features, passed.tensors["directions"]), torch.stack(each).mean())


def test_nobody_pulls_harder_than_by_a_direction_and_rows_of_zeros_teach_nothing() -> None:
    loud = said(1).with_tensors("embedding", {"directions": 1e3 * said(1).tensors["directions"]})
    torch.testing.assert_close(relayed({1: loud}, 1).tensors["directions"], said(1).tensors["directions"])
    silent = said(2).with_tensors("probabilities", {"head_0": torch.zeros(30, 10)})
    torch.testing.assert_close(relayed({1: said(1), 2: silent}, 1).tensors["head_0"], said(1).tensors["head_0"])


def test_on_a_line_knowledge_comes_k_edges_far_by_head_k() -> None:
    """Only client 0 is sure of anything; heads copy what teaches them, as ideal learners would."""
    neighbours = ((1,), (0, 2), (1, 3), (2,))
    nothing, known = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.0, 1.0]])
    heads = [[known if client == 0 and k == 0 else nothing for k in range(4)] for client in range(4)]
    for _ in range(6):
        heads = [
            [own[0], *(most_confident(torch.stack([heads[j][k - 1] for j in (i, *neighbours[i])])) for k in range(1, 4))]
            for i, own in enumerate(heads)
        ]
    knows = [[bool(torch.equal(answer, known)) for answer in own] for own in heads]
    assert knows == [[k >= client for k in range(4)] for client in range(4)]


def test_a_client_hears_its_neighbours_on_the_graph_that_uploaded() -> None:
    strategy = MHD(graph="ring", heads=2)
    server = server_of(small(strategy, data={"clients": 5}))
    assert graph("ring", 5)[2] == (1, 3)
    told = strategy.server_update(server, {k: said(k) for k in (0, 1, 4)})
    assert told.keys() == set(range(5))
    assert {k: each.header.get("neighbours", 0) for k, each in told.items()} == {0: 2, 1: 1, 2: 1, 3: 1, 4: 1}
    torch.testing.assert_close(told[2].tensors["head_1"], said(1).tensors["head_1"])
    assert not strategy.server_update(server, {2: said(2)})[2].tensors


def test_without_heads_and_embeddings_it_is_local() -> None:
    found, alone = (
        simulate(small(strategy, rounds=3, nets={"mlp": 0.5, "cnn": 0.5})).metrics
        for strategy in (MHD(heads=0, embedding_weight=0), "local")
    )
    for row, other in zip(found, alone, strict=True):
        assert {key: row[key] for key in ("accuracy", "client_accuracy")} == {
            key: other[key] for key in ("accuracy", "client_accuracy")
        }
        assert row.get("cross_entropy") == other.get("cross_entropy")
    assert sum(row["bytes_up"] + row["bytes_down"] for row in found[1:]) == 0


@pytest.mark.parametrize(
    ("strategy", "numbers"),
    [
        (MHD(), 30 * (4 * 10 + 8)),
        (MHD(heads=1, public_per_round=12, graph="ring"), 12 * (10 + 8)),
        (MHD(heads=2, embedding_weight=0), 30 * 2 * 10),
        (MHD(heads=0), 30 * 8),
    ],
)
def test_bytes_up_are_those_down_whatever_the_graph(strategy: MHD, numbers: int) -> None:
    rows = simulate(small(strategy, rounds=2)).metrics
    assert [row["bytes_up"] for row in rows[1:]] == [3 * 4 * numbers] * 2
    assert [row["bytes_down"] for row in rows[1:]] == [0, 3 * 4 * numbers]
    assert rows[2]["edges"] == 2 and rows[2]["edge_bytes"] == 4 * numbers
    assert rows[1]["edges"] == 0


def test_the_last_head_answers_and_the_main_one_beside_it() -> None:
    client, strategy = client_of(small()), MHD(heads=2)
    predictors = strategy.predictors(client, Knowledge())
    assert [*predictors] == ["last_head", "main"]
    net, heads = client.net(init="own", keep=True), client.module("auxiliary heads", nn.ModuleList)
    found = predict(predictors["last_head"].function, client.test.samples, client.work())
    expected = predict(lambda inputs: heads[1](net.features(inputs)), client.test.samples, client.work())
    torch.testing.assert_close(found, expected)
    assert [*MHD(heads=0).predictors(client_of(small()), Knowledge())] == ["main"]


def test_heads_start_different_and_are_kept() -> None:
    strategy = MHD(heads=2)
    experiment = small(strategy)
    client = client_of(experiment)
    strategy.client_update(client, relayed({1: said(1)}, 0))
    client.flush()
    kept = client.memory.under("module/auxiliary heads/")
    assert kept.keys() == {f"{k}.{part}" for k in range(2) for part in ("weight", "bias")}
    assert not torch.equal(kept["0.weight"], kept["1.weight"])
    other = client_of(experiment, 1)
    strategy.predictors(other, Knowledge())
    assert not torch.equal(other.module("auxiliary heads", nn.ModuleList)[0].weight, kept["0.weight"])


def test_privacy_covers_answers_and_refuses_features() -> None:
    noisy = {"privacy": {"noise_multiplier": 1.0}}
    with pytest.raises(InputError, match="embedding") as refused:
        simulate(small(**noisy))
    assert "\n" not in str(refused.value)
    assert simulate(small(MHD(embedding_weight=0), rounds=2, **noisy)).metrics[2]["epsilon"] > 0


def logits_only(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes), nn.LogSoftmax(1))


@pytest.mark.parametrize(
    ("strategy", "changes", "told"),
    [
        (MHD(), {"nets": {"mlp": 0.5, "cnn": 0.5}}, "embedding_weight above 0 need features of one width, these have"),
        (MHD(embedding_weight=0), {"nets": logits_only}, "gives logits only"),
        (MHD(graph="torus"), {}, "topology 'torus' needs rows x columns"),
        (MHD(graph="random_regular", degree=3), {}, "3 nodes cannot have 3 neighbours each"),
    ],
)
def test_what_cannot_be_is_refused_before_round_1(strategy: MHD, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told) as refused:
        simulate(small(strategy, **changes))
    assert "\n" not in str(refused.value)


def test_the_net_with_its_main_head_is_exported(tmp_path: Path) -> None:
    simulate(small(rounds=2), out=tmp_path / "run")
    export(tmp_path / "run", tmp_path / "out", Choice(0))
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_last_head_knows_classes_that_a_net_alone_lacks() -> None:
    """5 clients, two kinds of nets, seed 0 (1, 2): 0.845 (0.892, 0.719) of all classes, and 0.640 (0.646, 0.554) alone.

    The main head on own samples: 0.815 (0.783, 0.861), and 0.850 (0.718, 0.861) alone. On a ring: 0.879 (0.918, 0.762), and
    0.865 (0.785, 0.883). In 20 rounds without the embedding term, seeds 1 and 2: 0.879 and 0.578 for 0.930 and 0.750. In rounds
    of 3 epochs, some 9 steps, the last head has learnt next to nothing, and with a distillation_weight of 3 the nets learn each
    other's first answers, and the main head little.
    """
    widths = {"net_options": {"mlp": {"hidden": [200, 64]}}}
    train = {"epochs": 20, "lr": 0.02}
    found, alone = (
        simulate(few_samples(strategy, train=train, **widths)).metrics[-1]
        for strategy in (MHD(distillation_weight=0.3), "local")
    )
    assert found["accuracy"] > alone["accuracy"] + 0.1
