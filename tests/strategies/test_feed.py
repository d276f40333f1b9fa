"""FEED: translators of the student's map, one for each teacher, on digits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fedkd.strategies.feed import FEED, Translator, last_map, map_distance
from public_runs import few_samples, server_of, tiny

from fedkd import Experiment, InputError, Knowledge, Server, simulate
from fedkd.losses import kd_loss
from fedkd.nets import Outputs
from fedkd.targets import mean_probs

OPTIONS = {"cnn": {"channels": [2, 4], "hidden": 8}, "mlp": {"hidden": [8]}}


def server_with(strategy: FEED, lr: float = 1e-9, **changes: Any) -> Server:
    settings = {"nets": "cnn", "net_options": OPTIONS, "train": {"batch_size": 64, "lr": lr, "weight_decay": 0.0}}
    return server_of(tiny(strategy, **{**settings, **changes}))


def uploads_of(server: Server, *clients: int) -> dict[int, Knowledge]:
    uploads = {}
    for client in clients:
        net = server.net(f"drawn {client}", architecture=server.architecture_of(client), init="own")
        uploads[client] = Knowledge.of("weights", {name: tensor.clone() for name, tensor in net.state_dict().items()})
    return uploads


def translators(server: Server) -> dict[str, dict[str, torch.Tensor]]:
    """What is kept of them, by client."""
    server.flush()
    kept = server.memory.under("module/translator/cnn/")
    clients = sorted({name.split("/")[0] for name in kept})
    return {client: server.memory.under(f"module/translator/cnn/{client}/") for client in clients}


@pytest.mark.recomputed("feed", by="formula")
def test_a_step_descends_the_definition() -> None:
    """One batch of all public samples; all nets in the state that they had before the step."""
    strategy = FEED(weight=2.0, logit_weight=0.5, temperature=2.0, label_weight=3.0)
    server = server_with(strategy, data={"public_labels": True})
    uploads = uploads_of(server, 0, 1)
    batch = next(server.public.batches(epochs=1, batch_size=64, rng=server.rng("batches")))
    own = server.net("student", architecture="cnn", keep=True).outputs(batch.inputs)
    theirs = []
    for upload in uploads.values():
        teacher = server.net("copy", architecture="cnn")
        teacher.load_state_dict(dict(upload.tensors))
        theirs.append(teacher.eval().outputs(batch.inputs))
    strategy.server_update(server, uploads)
    maps = torch.zeros(())
    for one, kept in zip(theirs, translators(server).values(), strict=True):
        translator = Translator(4, 4)
        translator.load_state_dict(kept)
        a, b = (held.flatten(1) for held in (translator(own.maps[-1].relu()), one.maps[-1].relu()))
        maps = maps + (a / a.norm(dim=1, keepdim=True) - b / b.norm(dim=1, keepdim=True)).abs().mean()
    assert server.reported["server_maps"] == pytest.approx(2.0 * maps.item(), rel=1e-3)
    mean = mean_probs(torch.stack([one.logits for one in theirs]), temperature=2.0).logits(2.0)
    distilled = kd_loss(own.logits, mean, temperature=2.0).item()
    assert server.reported["server_distillation"] == pytest.approx(0.5 * distilled, rel=1e-4)
    labels = torch.nn.functional.cross_entropy(own.logits, batch.labels).item()
    assert server.reported["server_cross_entropy"] == pytest.approx(3.0 * labels, rel=1e-4)


@pytest.mark.parametrize("weights", [{"weight": 10.0, "logit_weight": 0.0}, {"weight": 0.0, "logit_weight": 1.0}])
def test_each_distillation_moves_the_student_by_itself(weights: dict[str, float]) -> None:
    """The maps' term with labels that count for next to nothing, as the paper's loss needs some."""
    server = server_with(FEED(**weights, label_weight=1e-9), lr=0.1, data={"public_labels": True})
    before = {n: t.clone() for n, t in server.net("student", architecture="cnn", keep=True).state_dict().items()}
    after = server.experiment.strategy.server_update(server, uploads_of(server, 0, 1)).tensors
    moved = {name for name, tensor in before.items() if (after[name] - tensor).abs().max() > 1e-6}
    classifier = {name for name in before if name.startswith("heads.")}
    assert moved & classifier == (classifier if weights["logit_weight"] else set())
    assert any(name.startswith("encoder.") for name in moved)


def test_teachers_that_come_and_go_find_their_own_translator_again() -> None:
    server = server_with(FEED(), lr=0.1)
    uploads = uploads_of(server, 0, 1)
    server.experiment.strategy.server_update(server, uploads)
    first = translators(server)
    server.experiment.strategy.server_update(server, {1: uploads[1]})
    again = translators(server)
    assert all(torch.equal(again["0"][name], tensor) for name, tensor in first["0"].items())
    assert any(not torch.equal(again["1"][name], tensor) for name, tensor in first["1"].items())


def test_nets_without_maps_are_compared_by_their_features() -> None:
    server = server_with(FEED(), nets={"cnn": 0.5, "mlp": 0.5}, server_net="mlp")
    server.experiment.strategy.server_update(server, uploads_of(server, 0, 1))
    assert server.reported["server_maps"] > 0
    assert last_map(Outputs(torch.zeros(2, 3), torch.ones(2, 5))).shape == (2, 5, 1, 1)


def test_the_distance_knows_no_scale_and_no_size() -> None:
    maps = torch.rand(3, 4, 6, 6)
    assert map_distance(2.5 * maps, maps).item() == pytest.approx(0.0, abs=1e-8)
    assert map_distance(torch.nn.functional.avg_pool2d(maps, 2), maps).item() == pytest.approx(0.0, abs=1e-8)


def test_weights_travel_as_the_formula_says() -> None:
    experiment = tiny(FEED(), nets="cnn", net_options=OPTIONS)
    row = simulate(experiment).metrics[1]
    net = sum(4 * tensor.numel() for tensor in server_with(FEED()).net("any", architecture="cnn").state_dict().values())
    assert (row["bytes_up"], row["bytes_down"]) == (2 * net, 2 * net)


def test_translators_need_batches_of_two() -> None:
    with pytest.raises(InputError, match=r"train\.batch_size: FEED needs statistics of a batch: set it to 2 or more"):
        Experiment(strategy="feed", rounds=1, data={"public": 20}, train={"batch_size": 1})


@pytest.mark.slow
def test_the_student_is_better_than_the_clients_that_teach_it() -> None:
    last = simulate(few_samples("feed", nets="cnn", train={"optimizer": "adam", "lr": 0.003})).metrics[-1]
    alone = simulate(few_samples("local", nets="cnn", train={"optimizer": "adam", "lr": 0.003})).metrics[-1]
    assert last["accuracy"] > alone["accuracy"] + 0.1
