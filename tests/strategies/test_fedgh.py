"""FedGH: a classifier that the server trains on clients' means by class, and that they put on their own encoders."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fedkd.strategies.fedgh import FedGH, server_net
from public_runs import client_of, server_of, tiny
from torch import Tensor

from fedkd import Experiment, InputError, Knowledge, classifier, predict, simulate
from fedkd.methods.prototypes import Prototypes
from fedkd.methods.shared_classifier import classifier_of, put_classifier

pytestmark = pytest.mark.filterwarnings("ignore::fedkd.base.errors.Notice")
C, D = 10, 8


def says(rows: dict[int, Tensor]) -> Knowledge:
    """The mean features of some classes, each of two samples."""
    values, counts = torch.zeros(C, D), torch.zeros(C, dtype=torch.int32)
    for label, row in rows.items():
        values[label], counts[label] = row, 2
    return Prototypes(values, counts).to_knowledge(weight=float(counts.sum()))


def zeros() -> Knowledge:
    return Knowledge.of("weights", {"classifier.weight": torch.zeros(C, D), "classifier.bias": torch.zeros(C)})


@pytest.mark.recomputed("fedgh", by="hand")
def test_one_step_of_the_server_by_hand() -> None:
    """From zeros all classes are as likely: the step is lr (y - 1 / C) x, the mean over both clients' only rows."""
    server, x = server_of(tiny("fedgh")), torch.arange(8.0)
    put_classifier(server_net(server), zeros().tensors)
    answer = FedGH(server_lr=0.5).server_update(server, {0: says({3: x}), 1: says({4: x})}).tensors
    expected = torch.full((C,), -0.1)
    expected[[3, 4]] = 0.4
    torch.testing.assert_close(answer["classifier.weight"], 0.5 * expected[:, None] * x)
    torch.testing.assert_close(answer["classifier.bias"], 0.5 * expected)
    assert server.reported["server_classifier"] == pytest.approx(float(torch.tensor(10.0).log()))


def test_the_servers_classifier_goes_on_and_tells_the_uploaded_means_apart() -> None:
    server, strategy = server_of(tiny("fedgh")), FedGH(server_epochs=20, server_lr=0.1)
    means = dict(enumerate(5 * torch.eye(D)))
    losses = []
    for round in (1, 2):
        server.round = round
        answer = strategy.server_update(server, {0: says(means)})
        losses.append(server.reported["server_classifier"])
    assert losses[1] < 0.5 * losses[0]
    logits = torch.stack([*means.values()]) @ answer.tensors["classifier.weight"].T + answer.tensors["classifier.bias"]
    assert logits.argmax(1).tolist() == list(range(D))


@pytest.mark.recomputed("fedgh", by="formula")
@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_a_client_trains_under_the_servers_classifier_and_says_means_in_eval_mode(scale: float) -> None:
    experiment = tiny("fedgh", train={"lr": 1e-9})
    client, server = client_of(experiment), server_of(experiment)
    first = FedGH().first_broadcast(server)
    given = Knowledge.of("weights", {name: scale * tensor.clone() for name, tensor in first.tensors.items()})
    upload = FedGH().client_update(client, given)
    net = client.net(keep=True)
    assert all(torch.allclose(tensor, given.tensors[name]) for name, tensor in classifier_of(net).items())
    samples = client.train.samples
    features, labels = predict(net.eval().features, samples, client.work()), samples.labels[samples.indices]
    label = int(upload.tensors["class_ids"][0])
    torch.testing.assert_close(upload.tensors["prototypes"][0], features[labels == label].mean(0), rtol=1e-5, atol=1e-6)


def test_the_answer_is_that_of_the_own_encoder_under_the_shared_classifier_which_changes_no_net() -> None:
    client = client_of(tiny("fedgh"))
    net, samples = client.net(keep=True), client.test.samples
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    shared = Knowledge.of("weights", {"classifier.weight": torch.randn(C, D), "classifier.bias": torch.randn(C)})
    predictors = FedGH().predictors(client, shared)
    assert list(predictors) == ["shared_classifier", "main"]
    shown = {name: predict(each.function, samples, client.work()) for name, each in predictors.items()}
    features = predict(net.features, samples, client.work())
    expected = features @ shared.tensors["classifier.weight"].T + shared.tensors["classifier.bias"]
    torch.testing.assert_close(shown["shared_classifier"], expected)
    torch.testing.assert_close(shown["main"], predict(classifier(net).function, samples, client.work()))
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert FedGH().predictors(server_of(tiny("fedgh")), shared) == {}


@pytest.mark.slow
def test_up_goes_what_a_client_holds_and_down_a_classifier() -> None:
    experiment = tiny("fedgh", rounds=2)
    held = [set(s.labels[s.indices].tolist()) for s in (client_of(experiment, k).train.samples for k in (0, 1))]
    for row in simulate(experiment).metrics[1:]:
        assert row["bytes_up"] == sum(map(len, held)) * (4 * D + 8)
        assert row["bytes_down"] == 2 * 4 * (C * D + C)


@pytest.mark.slow
def test_the_servers_training_moves_the_nets() -> None:
    slow, fast = (simulate(tiny({"name": "fedgh", "server_lr": lr}, rounds=2)).metrics for lr in (1e-9, 1.0))
    assert slow[1]["cross_entropy"] == fast[1]["cross_entropy"]
    assert slow[2]["cross_entropy"] != fast[2]["cross_entropy"]


def without_bias(shape: tuple[int, ...], classes: int) -> torch.nn.Module:
    flat = shape[0] * shape[1] * shape[2]
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(flat, D), torch.nn.ReLU(), torch.nn.Linear(D, classes, bias=False)
    )


def frozen(shape: tuple[int, ...], classes: int) -> torch.nn.Module:
    net = without_bias(shape, classes)
    net[3].requires_grad_(False)  # type: ignore[index]
    return net


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fedgh", "lg_fedavg"])
def test_nets_may_differ_but_not_in_their_last_layer(strategy: str) -> None:
    sizes = {"mlp": {"hidden": [16, 8]}, "cnn": {"hidden": 8}}
    mixed: dict[str, Any] = {"nets": {"cnn": 0.5, "mlp": 0.5}, "net_options": sizes}
    assert simulate(tiny(strategy, **mixed)).metrics[1]["clients_ok"] == 2
    assert simulate(tiny(strategy, nets=without_bias, net_options={})).metrics[1]["clients_ok"] == 2
    with pytest.raises(InputError, match="shared classifiers need features of one width, these have cnn 8, mlp 16"):
        simulate(tiny(strategy, **{**mixed, "net_options": {**sizes, "mlp": {"hidden": [16]}}}))
    with pytest.raises(InputError, match=r"the last layers of \S+ and \S+ differ"):
        simulate(tiny(strategy, nets={"test_fedgh:without_bias": 0.5, "mlp": 0.5}))
    with pytest.raises(InputError, match="its last layer is frozen, and all clients are to share it"):
        simulate(tiny(strategy, nets=frozen, net_options={}))


@pytest.mark.slow
def test_beats_training_alone() -> None:
    """10 nets, seed 1 (0, 2). Global: 0.712 (0.688, 0.687) against 0.682 (0.661, 0.653) alone; own: 0.919 against 0.907.

    Most of it is that all share one classifier: left as it was drawn (``server_lr`` 1e-9), it gives 0.712 (0.685, 0.692) and
    0.901, as clients' means are told apart with a loss near 0 from the first rounds on.
    """
    means = {}
    for name in ("fedgh", "local"):
        data = {"clients": 10, "partition": "dirichlet", "alpha": 0.5, "min_partition_size": 8}
        train = {"optimizer": "adam", "lr": 0.002, "batch_size": 16, "epochs": 3}
        experiment = Experiment(strategy=name, rounds=15, seed=1, nets="mlp", data=data, train=train, evaluate_every=15)
        row = simulate(experiment).metrics[-1]
        means[name] = [row[key] for key in ("accuracy", "client_accuracy")]
    assert means["fedgh"][0] > means["local"][0] + 0.02
    assert means["fedgh"][1] > means["local"][1]
