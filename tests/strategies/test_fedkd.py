"""FedKD: the adaptive loss by hand, the mentee that all hold alike, what travels of it, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import fedkd.strategies.fedkd as fedkd_module
import pytest
import torch
from fedkd.strategies.fedkd import LARGEST, FedKD, all_weights, catch_up, parts_schema, update_from
from public_runs import client_of, few_samples, server_of, tiny
from torch import Tensor, nn

from fedkd import Client, Knowledge, simulate
from fedkd.base.errors import InputError
from fedkd.engine.guard import check_upload
from fedkd.experiment.algorithm.step import make_optimizer
from fedkd.grids import InProcessGrid
from fedkd.knowledge.codecs.lowrank import compress
from fedkd.knowledge.memory import Memory
from fedkd.methods.mutual import shared_net


def loss_of_a_batch(strategy: FedKD, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> tuple[dict[str, Tensor], Any, Any]:
    """The parts of the loss, the nets (mentor: mlp, mentee: cnn) and the batch they are of."""
    seen: list[Any] = []

    def look(client: Client, nets: Any, data: Any, loss: Callable[..., dict[str, Tensor]], **_: Any) -> dict[str, float]:
        batch = next(data.batches(epochs=1, batch_size=8, rng=torch.Generator().manual_seed(0)))
        seen.extend((loss(nets, batch), nets, batch))
        return {}

    monkeypatch.setattr(fedkd_module, "fit_together", look)
    client = client_of(tiny(strategy, shared_net="cnn", **changes))
    strategy.client_update(client, all_weights(shared_net(client)))
    return seen[0], seen[1], seen[2]


@pytest.mark.recomputed("fedkd", by="formula")
def test_the_more_both_are_right_the_more_they_teach_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, nets, batch = loss_of_a_batch(FedKD(kl=0.5, hidden=2.0), monkeypatch)
    h_t, h_s = (nets[name].features(batch.inputs).double() for name in ("mentor", "mentee"))  # (B, 8), (B, 64)
    p_t, p_s = (nets[name](batch.inputs).double().softmax(1) for name in ("mentor", "mentee"))
    rows = torch.arange(len(batch))
    wrong_t, wrong_s = (-p[rows, batch.labels].log().mean() for p in (p_t, p_s))
    trust = 1 / (wrong_t + wrong_s)
    gap = (h_t - h_s @ nets["map"].weight.double().T).square().mean()
    expected = {
        "mentor_cross_entropy": wrong_t,
        "mentee_cross_entropy": wrong_s,
        "mentor_distillation": 0.5 * trust * (p_s * (p_s / p_t).log()).sum(1).mean(),
        "mentee_distillation": 0.5 * trust * (p_t * (p_t / p_s).log()).sum(1).mean(),
        "mentor_hidden": 2.0 * trust * gap,
        "mentee_hidden": 2.0 * trust * gap,
    }
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(
        {name: value.item() for name, value in expected.items()}, rel=1e-4
    )


def test_a_net_learns_from_its_own_parts_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, other in (("mentor", "mentee"), ("mentee", "mentor")):
        parts, nets, _ = loss_of_a_batch(FedKD(), monkeypatch)
        (parts[f"{name}_distillation"] + parts[f"{name}_hidden"]).backward()
        assert all(p.grad is None for p in nets[other].parameters())
        assert any(p.grad is not None for p in nets[name].parameters())
        assert (nets["map"].weight.grad is None) == (name == "mentor")


def test_the_weight_of_the_distillation_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    free, bound = (loss_of_a_batch(FedKD(least=least), monkeypatch)[0] for least in (1e-6, 100.0))
    wrong = free["mentor_cross_entropy"] + free["mentee_cross_entropy"]
    ratio = free["mentor_distillation"] / bound["mentor_distillation"]
    assert ratio.item() == pytest.approx((100 / wrong).item(), rel=1e-5)


def logits_only(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes), nn.LogSoftmax(1))


def test_nets_without_features_are_compared_by_their_predictions_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = tiny("fedkd", nets=logits_only, net_options={}, shared_net="mlp")
    row = simulate(experiment).metrics[1]
    assert row["clients_ok"] == 2 and row["mentor_distillation"] > 0
    assert not any("hidden" in key for key in row)


@pytest.mark.slow
def test_distillation_moves_mentor_and_mentee() -> None:
    full, bare = (simulate(tiny(s, rounds=2)).metrics[2] for s in (FedKD(), FedKD(kl=0.0, hidden=0.0)))
    assert min(full[f"{net}_{part}"] for net in ("mentor", "mentee") for part in ("distillation", "hidden")) > 0
    assert full["mentor_cross_entropy"] != bare["mentor_cross_entropy"]
    assert full["mentee_cross_entropy"] != bare["mentee_cross_entropy"]


@pytest.mark.slow
def test_the_map_between_the_features_is_trained_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Tensor] = []
    keep = fedkd_module.keep_feature_map

    def watched(client: Client, nets: Mapping[str, nn.Module]) -> None:
        if client.id == 0:
            kept.append(client.memory.under("feature map/").get("weight", torch.zeros(1)).clone())
            keep(client, nets)
            kept.append(client.memory.tensor("feature map/weight").clone())
        else:
            keep(client, nets)

    monkeypatch.setattr(fedkd_module, "keep_feature_map", watched)
    simulate(tiny("fedkd", rounds=2))
    assert torch.equal(kept[2], kept[1])  # round 2 finds what round 1 left
    assert not torch.equal(kept[3], kept[2])


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"participation": 0.5},
        {"faults": {"crash": 0.3, "nan": 0.3}},
        {"late_rounds": 2, "faults": {"straggle": 0.4}},
        {"downlink": "int8", "uplink": "int8", "participation": 0.5},
        {"downlink": ["float16", "delta", "deflate"], "faults": {"crash": 0.3}},
    ],
)
def test_whoever_trains_starts_from_the_very_bits_of_the_servers_mentee(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after rounds that a client missed or lost, by an update or by all weights."""
    mentee: dict[str, Tensor] = {}
    started: list[bool] = []
    advance = fedkd_module.advance

    def moved(server: Any, net: Any, *rest: Any, **options: Any) -> Any:
        answer = advance(server, net, *rest, **options)
        mentee.update({name: tensor.clone() for name, tensor in net.state_dict().items()})
        return answer

    def caught_up(memory: Memory, broadcast: Knowledge) -> dict[str, Tensor]:
        weights = catch_up(memory, broadcast)
        if mentee:
            started.append(all(torch.equal(tensor, mentee[name]) for name, tensor in weights.items()))
        return weights

    monkeypatch.setattr(fedkd_module, "advance", moved)
    monkeypatch.setattr(fedkd_module, "catch_up", caught_up)
    data = {"clients": 4, "partition": "iid", "train_limit": 80}
    history = simulate(tiny("fedkd", rounds=8, data=data, **changes))
    assert len(started) > 8 and all(started)
    assert all("catch" not in str(row.get("failures")) and "version" not in str(row.get("failures")) for row in history.metrics)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_one_clients_rounds_are_one_training_of_both_nets(optimizer: str) -> None:
    """With all of the energy an update is the change itself: four rounds are four epochs of one optimiser over both nets."""
    train = {"epochs": 1, "batch_size": 8, "lr": 0.01, "optimizer": optimizer, "momentum": 0.9}
    strategy, grid = FedKD(e_start=1.0, e_end=1.0), InProcessGrid()
    experiment, states = tiny(strategy, rounds=4, data={"clients": 1}, train=train), dict[int, Any]()
    simulate(experiment, grid, on_round=lambda row: states.update(grid.states()))
    client = client_of(experiment)
    nets = nn.ModuleDict({"mentor": client.net(init="own"), "mentee": shared_net(client)})
    nets["map"] = nn.Linear(8, 8, bias=False)
    nn.init.xavier_uniform_(nets["map"].weight, generator=client.rng("feature map"))
    steps = make_optimizer(nets, client.work())
    for client.round in (1, 2, 3, 4):
        for batch in client.train.labelled().batches(epochs=1, batch_size=8, rng=client.rng("batches")):
            steps.zero_grad()
            sum(strategy._loss(nets, batch).values()).backward()  # type: ignore[union-attr]
            steps.step()
        if client.round == 3:  # what the client trained from in round 4
            for name, tensor in nets["mentee"].state_dict().items():
                found = Memory.read(states[0]).tensor(f"synchronised/{name}")
                torch.testing.assert_close(found, tensor, rtol=1e-4, atol=1e-5)
    for name, tensor in nets["mentor"].state_dict().items():
        torch.testing.assert_close(Memory.read(states[0]).tensor(f"net/main/{name}"), tensor, rtol=1e-4, atol=1e-5)


def test_a_chain_of_which_clients_read_different_things_is_refused() -> None:
    with pytest.raises(
        InputError, match='downlink: FedKD needs equal nets at all clients: put "delta" behind the lossy codecs'
    ):
        tiny("fedkd", downlink=["delta", "int8"])
    assert tiny("fedkd", downlink=["int8", "delta", "deflate"]).downlink == ("int8", "delta", "deflate")


def test_an_update_heard_twice_counts_once_and_one_of_another_version_is_refused() -> None:
    memory, ones = Memory(), torch.ones(2)
    whole = Knowledge.of("weights", {"w": ones}, header={"version": 3})
    update = Knowledge.of("weights", {"w": 2 * ones}, header={"version": 4, "after": 3})
    assert catch_up(memory, whole)["w"].tolist() == [1.0, 1.0]
    assert catch_up(memory, update)["w"].tolist() == [3.0, 3.0]
    assert catch_up(memory, update)["w"].tolist() == [3.0, 3.0]
    with pytest.raises(ValueError, match="from version 7 to 8, but this client holds 4"):
        catch_up(memory, Knowledge.of("weights", {"w": ones}, header={"version": 8, "after": 7}))


@pytest.mark.slow
def test_the_mentee_moves_by_the_plain_mean_of_the_changes() -> None:
    """With all of the energy nothing is cut away: then it is FedAvg of the mentees of equal clients."""
    settings = {"rounds": 3, "train": {"lr": 0.2, "batch_size": 8, "momentum": 0.0}}
    everything = FedKD(kl=0.0, hidden=0.0, e_start=1.0, e_end=1.0)
    found, averaged = (simulate(tiny(strategy, **settings)).metrics for strategy in (everything, "fedavg"))
    assert [row["mentee_cross_entropy"] for row in found[1:]] == pytest.approx(
        [row["cross_entropy"] for row in averaged[1:]], rel=1e-4
    )


@pytest.mark.slow
def test_less_travels_than_all_weights_and_more_of_the_energy_costs_more() -> None:
    """The shared mlp of 64-64-10 has 4810 weights of 4 bytes; 4 clients."""
    data = {"clients": 4, "partition": "iid", "train_limit": 120}
    settings = {"rounds": 2, "data": data, "shared_net": "mlp", "net_options": {"mlp": {"hidden": [64]}}}
    cheap, dear = (simulate(tiny(FedKD(e_start=e, e_end=e), **settings)).metrics for e in (0.5, 0.95))
    assert cheap[1]["bytes_down"] == dear[1]["bytes_down"] == 4 * 4 * 4810  # all weights to begin with
    for up_or_down, round in (("bytes_up", 1), ("bytes_up", 2), ("bytes_down", 2)):
        assert cheap[round][up_or_down] < dear[round][up_or_down] < 4 * 4 * 4810


def test_the_energy_rises_over_the_rounds() -> None:
    client = client_of(tiny(FedKD(e_start=0.5, e_end=0.9), rounds=4))
    energies = []
    for client.round in (1, 2, 4):
        energies.append(client.experiment.strategy._energy(client))  # type: ignore[attr-defined]
    assert energies == pytest.approx([0.6, 0.7, 0.9])


def test_the_schema_takes_every_rank_that_saves_bytes() -> None:
    """64 x 8: r (64 + 8 + 1) < 512 for r up to 7; 8 x 10: r (8 + 10 + 1) < 80 for r up to 4; biases travel whole."""
    net = shared_net(server_of(tiny("fedkd")))
    schema = parts_schema(net)
    assert [str(schema[f"encoder.layers.0.weight/{part}"].shape) for part in "usv"] == [
        "(8, UpTo(name='encoder.layers.0.weight rank', most=7))",
        "(UpTo(name='encoder.layers.0.weight rank', most=7),)",
        "(UpTo(name='encoder.layers.0.weight rank', most=7), 64)",
    ]
    assert schema["heads.classifier.weight/s"].shape[0].most == 4  # type: ignore[union-attr]
    assert {name for name, spec in schema.items() if not spec.optional} == {"encoder.layers.0.bias", "heads.classifier.bias"}
    for energy in (0.1, 0.9, 1.0):
        parts = compress({name: torch.randn(tensor.shape) for name, tensor in net.state_dict().items()}, energy)
        check_upload(Knowledge.of("weights", parts), schema, classes=10)


def spoilt(parts: dict[str, Tensor], fault: str) -> dict[str, Tensor]:
    name = "encoder.layers.0.weight"
    if fault == "twice":
        return {**parts, name: torch.zeros(8, 64)}
    if fault == "without V":
        return {key: tensor for key, tensor in parts.items() if key != f"{name}/v"}
    if fault == "nothing":
        return {key: tensor for key, tensor in parts.items() if not key.startswith(name)}
    return {**parts, f"{name}/s": parts[f"{name}/s"] * 1e5, f"{name}/u": parts[f"{name}/u"] * 1e5}


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["twice", "without V", "nothing", "huge"])
def test_parts_that_make_up_no_update_cost_their_client_the_round(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    update = FedKD.client_update

    def bad(self: FedKD, client: Client, broadcast: Knowledge) -> Knowledge:
        upload = update(self, client, broadcast)
        return upload if client.id else Knowledge.of("weights", spoilt(dict(upload.tensors), fault), weight=upload.weight)

    monkeypatch.setattr(FedKD, "client_update", bad)
    train = {"lr": 1.0, "batch_size": 8, "epochs": 3}
    row = simulate(tiny(FedKD(e_start=0.3, e_end=0.3), train=train)).metrics[1]
    assert (row["clients_ok"], row["clients_failed"]) == (1, 1)
    assert "upload rejected" in row["failures"]["0"]


def test_a_huge_update_is_named() -> None:
    weights = {"w": torch.zeros(3, 3)}
    with pytest.raises(ValueError, match=r"the update of w holds 2e\+06, beyond 1e\+06"):
        update_from({"w": torch.full((3, 3), -2e6)}, weights)
    assert LARGEST == 1e6


def test_a_share_of_the_energy_is_asked_for() -> None:
    with pytest.raises(InputError, match=r"strategy\.e_end"):
        tiny({"name": "fedkd", "e_end": 1.5})


@pytest.mark.slow
def test_the_mentee_knows_more_than_a_client_alone_for_fewer_bytes_than_fedavg() -> None:
    """Seen on digits, 5 clients of 40 samples, mentors cnn, mentee an mlp of 64-64-10: 88.9 % on the global test set, a cnn
    trained alone 57.0 % (its error: 2.6 %); uploads of 297 kB, where all weights of the mentee are 962 kB.
    """
    mentee = {"shared_net": "mlp", "net_options": {"mlp": {"hidden": [64]}}}
    found, alone = simulate(few_samples("fedkd", nets="cnn", **mentee)), simulate(few_samples("local", nets="cnn"))
    uploaded = sum(row["bytes_up"] for row in found.metrics)
    assert found.metrics[-1]["accuracy"] > alone.metrics[-1]["accuracy"] + 0.15
    assert uploaded < 0.6 * 10 * 5 * 4 * 4810
