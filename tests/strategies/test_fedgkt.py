"""FedGKT: maps go up sample by sample, the server's tail learns from them, and its logits come back to the same samples."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from fedkd.strategies.fedgkt import FedGKT
from fedkd.strategies.local import Local
from public_runs import client_of, server_of, tiny
from torch import Tensor, nn

from fedkd import Client, Experiment, InputError, Knowledge, predict, simulate
from fedkd.losses import kd_loss
from fedkd.nets import cut_net

pytestmark = pytest.mark.filterwarnings("ignore::fedkd.base.errors.Notice")
C = 10
SIZES = {"mlp": {"hidden": [8, 6]}, "cnn": {"channels": [4, 8], "hidden": 12}, "resnet18": {"width": 4}}


def small(strategy: Any, net: Any = "mlp", **changes: Any) -> Experiment:
    return tiny(strategy, **{"nets": net, "net_options": SIZES, **changes})


def uploads_of(strategy: FedGKT, experiment: Experiment) -> dict[int, Knowledge]:
    return {k: strategy.client_update(client_of(experiment, k), Knowledge()).copy() for k in (0, 1)}


def trained(strategy: Any, experiment: Experiment, broadcast: Knowledge, **how: Any) -> dict[str, Tensor]:
    client = client_of(experiment)
    strategy.client_update(client, broadcast)
    return {name: tensor.clone() for name, tensor in client.net(keep=True, **how).state_dict().items()}


def rows_of(client: Client) -> tuple[Tensor, Tensor]:
    samples = client.train.labelled().samples
    return predict(client.net(keep=True).eval(), samples, client.work()), samples.labels[samples.indices]


@pytest.mark.parametrize("net", ["mlp", "cnn", "resnet18"])
def test_a_client_says_map_logits_and_label_of_each_sample_in_the_order_of_its_samples(net: str) -> None:
    experiment = small("fedgkt", net)
    client = client_of(experiment)
    said = FedGKT().client_update(client, Knowledge())
    logits, labels = rows_of(client)
    torch.testing.assert_close(said.tensors["logits"], logits, rtol=1e-5, atol=1e-6)
    assert torch.equal(said.tensors["labels"], labels)
    tail = cut_net(client.net(keep=True), 1).tail.eval()
    torch.testing.assert_close(tail(said.tensors["maps"]), logits, rtol=1e-4, atol=1e-5)  # the tail on the map is the net


@pytest.mark.recomputed("fedgkt", by="formula")
def test_whatever_batches_are_drawn_a_sample_is_taught_what_the_server_said_of_it() -> None:
    """The loss of a step so small that it moves nothing, over shuffled batches, is that of all rows in order."""
    experiment = small("fedgkt", train={"lr": 1e-12, "batch_size": 4, "epochs": 2})
    client = client_of(experiment)
    said = FedGKT().client_update(client, Knowledge()).copy()
    logits, _ = rows_of(client)
    taught = torch.randn(len(logits), C, generator=torch.Generator().manual_seed(0))
    expected = kd_loss(logits, taught, temperature=3.0)
    metrics = FedGKT().client_update(client, Knowledge.of("logits", {"logits": taught})).metrics
    assert metrics["distillation"] == pytest.approx(float(expected), rel=1e-4)
    own = FedGKT().client_update(client, Knowledge.of("logits", {"logits": said.tensors["logits"]})).metrics
    assert own["distillation"] == pytest.approx(0.0, abs=1e-5)


def test_with_a_weight_of_zero_the_edge_trains_as_if_alone_and_with_one_it_moves() -> None:
    experiment = small("fedgkt")
    taught = Knowledge.of("logits", {"logits": 5 * torch.randn(len(client_of(experiment).train), C)})
    first = trained(FedGKT(), experiment, Knowledge())
    without, with_it = (trained(FedGKT(client_weight=weight), experiment, taught) for weight in (0.0, 1.0))
    client = client_of(experiment)
    client.net(init="own", keep=True, weights=client_of(experiment).net().state_dict())  # Local draws its own
    Local().client_update(client, Knowledge())
    alone = client.net(keep=True).state_dict()
    for name, tensor in alone.items():
        assert torch.equal(first[name], tensor) and torch.equal(without[name], tensor)
    assert not torch.equal(with_it["encoder.layers.0.weight"], alone["encoder.layers.0.weight"])


def test_the_server_gives_each_client_what_its_tail_says_of_the_clients_rows() -> None:
    experiment = small("fedgkt")
    strategy, server, uploads = FedGKT(), server_of(experiment), uploads_of(FedGKT(), experiment)
    answers = strategy.server_update(server, uploads)
    tail = strategy._tail(server).eval()
    assert answers.keys() == {0, 1}
    for k, upload in uploads.items():
        torch.testing.assert_close(answers[k].tensors["logits"], tail(upload.tensors["maps"]), rtol=1e-5, atol=1e-6)


def test_the_tail_goes_on_from_round_to_round_and_both_its_terms_move_it() -> None:
    experiment = small("fedgkt", train={"lr": 0.1})
    uploads, losses = uploads_of(FedGKT(), experiment), []
    server, strategy = server_of(experiment), FedGKT(server_epochs=5)
    for round in (1, 2, 3):
        server.round = round
        strategy.server_update(server, uploads)
        losses.append(server.reported["server_loss"])
    assert losses == sorted(losses, reverse=True)
    states = []
    for weight in (0.0, 1.0):
        server, strategy = server_of(experiment), FedGKT(server_weight=weight)
        strategy.server_update(server, uploads)
        assert (server.reported["server_distillation"] > 0) == (weight > 0)
        states.append(strategy._tail(server).state_dict())
    assert not all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


@pytest.mark.parametrize("net", ["mlp", "cnn", "resnet18"])
def test_the_tail_of_a_clients_own_net_on_its_maps_is_that_net(net: str) -> None:
    """F after f is the uncut net: with its weights in the tail, the headline says what the edge says."""
    client = client_of(small("fedgkt", net))
    own = cut_net(client.net(keep=True), 1).tail
    sent = Knowledge.of("weights", {f"tail/{name}": tensor.clone() for name, tensor in own.state_dict().items()})
    predictors = FedGKT().predictors(client, sent)
    assert list(predictors) == ["tail", "edge"]
    tail, edge = (predict(each.function, client.test.samples, client.work()) for each in predictors.values())
    torch.testing.assert_close(tail, edge, rtol=1e-5, atol=1e-6)
    assert list(FedGKT().predictors(client, Knowledge())) == ["edge"]
    assert FedGKT().predictors(server_of(small("fedgkt")), Knowledge()) == {}


@pytest.mark.slow
@pytest.mark.parametrize(("net", "shape"), [("mlp", (8,)), ("cnn", (4, 4, 4)), ("resnet18", (4, 8, 8))])
def test_bytes_are_those_of_maps_logits_and_labels(net: str, shape: tuple[int, ...]) -> None:
    experiment = small("fedgkt", net, rounds=2)
    n = sum(len(client_of(experiment, k).train) for k in (0, 1))
    history = simulate(experiment)
    for row in history.metrics[1:]:
        assert row["bytes_up"] == n * (4 * math.prod(shape) + 4 * C + 8)
        assert row["bytes_down"] == (4 * n * C if row["round"] == 2 else 0)
    tail = sum(t.numel() * t.element_size() for t in FedGKT()._tail(server_of(experiment)).state_dict().values())
    assert history.metrics[2]["evaluation_bytes"] > 2 * tail


@pytest.mark.slow
def test_small_nets_of_two_kinds_share_a_tail_that_reads_their_maps() -> None:
    """A cnn's first map has 4 channels of 4 x 4, those of a resnet18 of width 4 as many of 8 x 8: its stages take either."""
    experiment = small("fedgkt", "cnn", server_net="resnet18", rounds=2)
    assert simulate(experiment).metrics[2]["clients_ok"] == 2
    both: dict[str, Any] = {"nets": {"cnn": 0.5, "resnet18": 0.5}}
    with pytest.raises(InputError, match=r"the maps of \w+ and \w+ at level 1 differ.*change level or net_options"):
        simulate(small("fedgkt", **both))


def logits_only(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"nets": logits_only}, "gives logits only: subclass fedkd.nets.Encoder and override in_parts to cut it"),
        ({"nets": "mlp", "net_options": {"mlp": {"hidden": [8]}}}, "give hidden two widths"),
        ({"strategy": {"name": "fedgkt", "level": 2}}, "MLP can be cut at level 1 only, and not at level 2"),
        ({"server_net": "cnn"}, "server_net: cnn behind level 1 does not read maps"),
        (  # a linear layer takes the last axis of a map for features, where it is as wide
            {"nets": "resnet18", "server_net": "mlp"},
            r"mlp behind level 1 does not read maps \(4, 8, 8\) of resnet18 .*of two it makes \(2, 4, 8, 10\)",
        ),
    ],
)
def test_what_cannot_be_cut_or_read_is_refused_in_a_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        simulate(small(**{"strategy": "fedgkt", **changes}))
    assert "\n" not in str(error.value)


def test_rows_that_do_not_fit_are_refused() -> None:
    experiment = small("fedgkt")
    upload = FedGKT().client_update(client_of(experiment), Knowledge())
    FedGKT().check_upload(server_of(experiment), upload)
    with pytest.raises(ValueError, match="it speaks of 16 samples, its weight is 5"):
        FedGKT().check_upload(server_of(experiment), dataclasses.replace(upload, weight=5))
    with pytest.raises(ValueError, match="the server speaks of 3 samples, and there are 16"):
        FedGKT().client_update(client_of(experiment), Knowledge.of("logits", {"logits": torch.zeros(3, C)}))


@pytest.mark.slow
def test_beats_training_alone() -> None:
    """5 small cnns, a resnet18's stages on their maps, seed 0 (1, 2): 0.851 (0.919, 0.910) on the global test set.

    Alone the same cnns have 0.700 (0.615, 0.609); own test: 0.869 (0.973, 0.909) against 0.788 (0.804, 0.814).
    """
    means = {}
    for strategy in ({"name": "fedgkt", "server_epochs": 2}, {"name": "local"}):
        data = {"clients": 5, "partition": "dirichlet", "alpha": 1.0, "min_partition_size": 8, "train_limit": 600}
        nets = {"cnn": {"channels": [8, 16], "hidden": 32}, "resnet18": {"width": 8}}
        train = {"epochs": 2, "batch_size": 16, "lr": 0.05}
        server = {"server_net": "resnet18"} if strategy["name"] == "fedgkt" else {}
        settings: dict[str, Any] = {"rounds": 10, "evaluate_every": 10, "nets": "cnn", "net_options": nets, **server}
        row = simulate(Experiment(strategy=strategy, seed=0, data=data, train=train, **settings)).metrics[-1]
        means[strategy["name"]] = row["accuracy"]
    assert means["fedgkt"] > means["local"] + 0.1
