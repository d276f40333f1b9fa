"""FedAvg and the weighted mean, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy

from fedkd import Experiment, Knowledge, load, simulate
from fedkd.aggregate import weighted_mean
from fedkd.engine.run import Run
from fedkd.grids import InProcessGrid
from fedkd.nets import build_net


def weights(values: dict[str, torch.Tensor], weight: float = 1.0) -> Knowledge:
    return Knowledge.of("weights", values, weight=weight)


@pytest.mark.recomputed("fedavg", by="hand")
def test_the_mean_is_weighted_by_sample_counts() -> None:
    uploads = {0: weights({"w": torch.tensor([0.0, 4.0])}, 1), 1: weights({"w": torch.tensor([4.0, 0.0])}, 3)}
    assert weighted_mean(uploads).tensors["w"].tolist() == [3.0, 1.0]


@pytest.mark.recomputed("fedavg", by="hand")
def test_running_statistics_are_averaged_and_counters_are_not() -> None:
    uploads = {
        k: weights({"running_mean": torch.tensor([float(k)]), "num_batches_tracked": torch.tensor(10 * k)}) for k in (1, 3)
    }
    mean = weighted_mean(uploads)
    assert mean.tensors["running_mean"].tolist() == [2.0]
    assert mean.tensors["num_batches_tracked"].item() == 30


def test_the_mean_of_identical_replies_is_the_identity() -> None:
    state = build_net("resnet18", shape=(3, 8, 8), classes=10, options={"width": 4}).state_dict()
    mean = weighted_mean({k: weights(state, weight) for k, weight in enumerate((7.0, 11.0, 13.0))})
    assert all(torch.equal(mean.tensors[name], tensor) for name, tensor in state.items())
    load(build_net("resnet18", shape=(3, 8, 8), classes=10, options={"width": 4}), mean.tensors)


def test_spaces_are_never_mixed() -> None:
    tensors = {"t": torch.zeros(2)}
    with pytest.raises(ValueError, match="other tensors or spaces"):
        weighted_mean({0: Knowledge.of("logits", tensors), 1: Knowledge.of("probabilities", tensors)})


@pytest.mark.slow
def test_fedx_on_a_resnet18_sends_46_028_704_bytes_a_direction() -> None:
    """The paper's net: 11,497,536 parameters; 128 tensors with BatchNorm's buffers; as in the official code."""
    experiment = Experiment(strategy="fedx", nets="resnet18", data={"source": three_channels, "partition": "iid"})
    run = Run(experiment, InProcessGrid())
    broadcast = experiment.strategy.first_broadcast(run.server)
    parameters = sum(p.numel() for p in run.server.net(heads=("projection", "prediction")).parameters())
    assert (parameters, len(broadcast.tensors), broadcast.raw_bytes) == (11_497_536, 128, 46_028_704)


def three_channels():  # type: ignore[no-untyped-def]
    """A data set of 40 random colour images, given as a function."""
    from fedkd.data import Source

    images = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(40) % 2
    return Source("random", images, labels, images[:10], labels[:10], ("a", "b"))


@pytest.mark.recomputed("fedavg", by="formula")
def test_two_rounds_have_the_weights_of_a_loop_by_hand(tmp_path: Path) -> None:
    """Each client's samples are one batch, so that their order plays no part; without dropout nothing else is drawn."""
    lr, momentum, epochs = 0.5, 0.9, 3
    experiment = Experiment(
        strategy="fedavg",
        rounds=2,
        nets=small_net,
        data={"clients": 3, "partition": "dirichlet", "alpha": 1.0, "client_test": 0.0, "normalise": "none"},
        train={"lr": lr, "momentum": momentum, "weight_decay": 0.0, "epochs": epochs, "batch_size": 2000},
    )
    simulate(experiment, out=tmp_path)

    federation = experiment.run_federation
    parts = [federation.client_train(client) for client in range(3)]
    mean = small_net((1, 8, 8), 10).state_dict()
    for _ in range(2):
        total = {name: torch.zeros_like(tensor) for name, tensor in mean.items()}
        for part in parts:
            net = small_net((1, 8, 8), 10)
            net.load_state_dict(mean)
            optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=momentum)
            images, labels = part.take(torch.arange(len(part)))[:2]
            for _ in range(epochs):
                optimizer.zero_grad()
                cross_entropy(net(images / 255), labels).backward()
                optimizer.step()
            for name, tensor in net.state_dict().items():
                total[name] += tensor * (len(part) / sum(map(len, parts)))
        mean = total
    assert len({len(part) for part in parts}) > 1
    by_fedkd = load_file(tmp_path / "checkpoint" / "round-00002" / "arrays.safetensors")["0:broadcast/fedkd.tensors/float32"]
    torch.testing.assert_close(by_fedkd, torch.cat([tensor.flatten() for tensor in mean.values()]), rtol=0, atol=1e-6)


def small_net(shape: tuple[int, ...], classes: int) -> nn.Module:
    """One hidden layer, always with the same first weights."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, classes))
    for place, parameter in enumerate(net.parameters()):
        values = torch.arange(parameter.numel()).add(place).sin() / 4
        nn.utils.vector_to_parameters(values, [parameter])
    return net


def test_fedavg_learns_digits() -> None:
    experiment = Experiment(
        strategy="fedavg", rounds=8, data={"clients": 5, "partition": "iid"}, train={"lr": 0.1, "epochs": 2, "batch_size": 32}
    )
    history = simulate(experiment)
    assert history.summary()["last"] > 0.85
    assert len(history.to_pandas()) == 9
