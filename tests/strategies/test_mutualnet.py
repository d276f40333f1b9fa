"""MutualNet: a narrower net against one of sliced weights, what each pass moves, resolutions, and bad input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from fedkd.strategies.mutualnet import MutualNet, at_resolution
from public_runs import client_of, server_of, tiny
from torch import Tensor, nn

from fedkd import Experiment, InputError, simulate
from fedkd.nets import Net, build_net, check_slimmable, slimmed
from fedkd.strategies import mutualnet as module

IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def built(name: str, **options: Any) -> Net:
    torch.manual_seed(0)
    return build_net(name, shape=(1, 8, 8), classes=10, options=options)


def sliced(wide: Net, narrow: Net) -> Net:
    """A narrower net with the first channels of the wider one; a flat map's numbers are ordered by channel."""
    state = narrow.state_dict()
    for name, target in state.items():
        source = wide.state_dict()[name]
        target.copy_(source[tuple(slice(side) for side in target.shape)])
    narrow.load_state_dict(state)
    return narrow


@pytest.mark.recomputed("mutualnet", by="formula")
@pytest.mark.parametrize(
    ("name", "wide", "narrow"),
    [
        ("cnn", {"channels": (4, 8), "hidden": 16}, {"channels": (2, 4), "hidden": 8}),
        ("cnn", {"channels": (4, 8), "hidden": 16, "norm": "batch"}, {"channels": (2, 4), "hidden": 8, "norm": "batch"}),
        ("mlp", {"hidden": (16, 12)}, {"hidden": (8, 6)}),
        ("resnet18", {"width": 8}, {"width": 4}),
    ],
)
def test_a_slimmed_net_gives_what_one_of_sliced_weights_gives(
    name: str, wide: Mapping[str, Any], narrow: Mapping[str, Any]
) -> None:
    whole = built(name, **wide)
    small = sliced(whole, built(name, **narrow))
    for mode in (False, True):  # in eval mode first, as a pass in train mode moves the small net's statistics
        with slimmed(whole.train(mode), 0.5):
            found = whole(IMAGES)
        torch.testing.assert_close(found, small.train(mode)(IMAGES), rtol=1e-4, atol=1e-5)
    assert not any(part._forward_hooks for part in whole.modules())


def test_a_narrow_pass_leaves_statistics_and_what_it_has_not_as_they_are() -> None:
    net = built("resnet18", width=8).train()
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    with slimmed(net, 0.25):
        net(IMAGES).sum().backward()
    assert all(torch.equal(buffer, before[name]) for name, buffer in net.named_buffers())
    assert all(part.track_running_stats for part in net.modules() if isinstance(part, nn.BatchNorm2d))
    stem: Any = net.encoder.stem
    assert [bool(each.any()) for each in stem.weight.grad] == [True, True] + [False] * 6
    last: Any = net.classifier
    assert bool(last.weight.grad[:, :16].any()) and not last.weight.grad[:, 16:].any()
    net(IMAGES)
    assert not torch.equal(net.get_buffer("encoder.norm.running_mean"), before["encoder.norm.running_mean"])


@pytest.mark.recomputed("mutualnet", by="formula")
def test_the_loss_by_hand_and_the_whole_net_is_a_constant_to_the_narrow_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    losses: list[Any] = []
    monkeypatch.setattr(module, "fit", lambda net, data, loss, **how: losses.append((net, data, loss)) or {"loss": 1.0})
    experiment = tiny(MutualNet(narrowest=0.5), nets="cnn", net_options={"cnn": {"channels": [2, 4], "hidden": 8}})
    client = client_of(experiment)
    experiment.strategy.client_update(client, experiment.strategy.first_broadcast(server_of(experiment)))
    net, data, loss = losses[0]
    batch = next(data.batches(epochs=1, batch_size=6, rng=client.rng("test")))
    parts: dict[str, Tensor] = loss(net, batch, torch.Generator().manual_seed(3))
    logits, expected = net(batch.inputs).detach(), 0.0
    for width in (0.5, *(0.5 + 0.5 * torch.rand(2, generator=torch.Generator().manual_seed(3))).tolist()):
        with slimmed(net, width):
            narrow = net(batch.inputs)
        expected += (logits.softmax(1) * (logits.log_softmax(1) - narrow.log_softmax(1))).sum(1).mean().item()
    assert parts["distillation"].item() == pytest.approx(expected, rel=1e-4)
    monkeypatch.setattr(module, "draw_narrow", lambda least, resolutions, rng: [(least, 1.0)])
    parts = loss(net, batch, client.rng("test"))
    net.zero_grad()
    parts["distillation"].backward(retain_graph=True)
    moved: Tensor = net.encoder.hidden.weight.grad
    assert moved[:4].any() and not moved[4:].any()  # half of its width; the whole net's predictions are constants
    parts["cross_entropy"].backward()
    assert moved[4:].any()


def test_images_are_made_smaller_where_the_net_takes_them() -> None:
    assert at_resolution(IMAGES, 1.0) is IMAGES
    assert at_resolution(IMAGES, 0.5).shape == (6, 1, 4, 4)
    options = {"resnet18": {"width": 4}, "cnn": {"channels": [2, 4], "hidden": 8}}
    any_size, one_size = (
        MutualNet()._resolutions(server_of(tiny(MutualNet(), nets=net, net_options={net: options[net]}))) for net in options
    )
    assert (any_size, one_size) == ((1.0, 0.875, 0.75, 0.625), (1.0,))


@pytest.mark.parametrize(
    ("strategy", "net", "message"),
    [
        (
            MutualNet(resolutions=(1.0, 0.5)),
            "cnn",
            r"strategy.resolutions: net 'cnn' takes samples of one size only, and no share of 0.5",
        ),
        (MutualNet(), "group", "net 'resnet18' has a GroupNorm, which mixes the channels that a narrower net has not"),
    ],
)
def test_nets_that_cannot_be_made_narrower_or_smaller_are_refused(strategy: MutualNet, net: str, message: str) -> None:
    options = {"cnn": {"cnn": {"channels": [2, 4]}}, "group": {"resnet18": {"width": 4, "norm": "group"}}}[net]
    with pytest.raises(InputError, match=message):
        strategy.first_broadcast(server_of(tiny(strategy, nets=next(iter(options)), net_options=options)))


def test_widths_and_resolutions_are_shares() -> None:
    for bad in ({"narrowest": 0.0}, {"narrowest": 1.0}, {"resolutions": (0.0,)}, {"resolutions": (1.5,)}):
        with pytest.raises(InputError, match=next(iter(bad))):
            Experiment(strategy={"name": "mutualnet", **bad})
    check_slimmable(built("mlp"))


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_what_travels_is_the_net_and_the_narrowest_is_evaluated_without_batch_norm(norm: str) -> None:
    options = {"cnn": {"channels": [4, 8], "hidden": 16, "norm": norm}}
    experiment = tiny(MutualNet(), nets="cnn", net_options=options)
    row = simulate(experiment).metrics[1]
    state = server_of(experiment).net().state_dict()
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    assert row["bytes_up"] == row["bytes_down"] == 2 * size
    assert ("narrow_accuracy" in row) == (norm == "none")
    assert row["distillation"] > 0


DIGITS = {"rounds": 10, "evaluate_every": 10, "nets": "cnn", "data": {"clients": 1, "partition": "iid"}}


@pytest.mark.slow
def test_the_whole_net_learns_digits_and_so_does_a_quarter_of_it_that_training_alone_leaves_behind() -> None:
    train = {"lr": 0.05, "batch_size": 32, "clip": 1.0}
    row = simulate(Experiment(strategy="mutualnet", train=train, **DIGITS)).metrics[-1]
    assert row["accuracy"] > 0.95 and row["narrow_accuracy"] > 0.8


@pytest.mark.slow
def test_four_gradients_add_up_to_too_large_a_step_for_a_net_without_batch_norm() -> None:
    """The rate that such a net bears alone, it does not bear here; a quarter of it, it does."""
    too_fast, slow = (
        simulate(Experiment(strategy="mutualnet", train={"lr": rate, "batch_size": 32}, **DIGITS)).metrics[-1]
        for rate in (0.05, 0.0125)
    )
    assert too_fast["accuracy"] < 0.8 and slow["accuracy"] > 0.9


@pytest.mark.slow
def test_a_client_draws_the_same_widths_on_every_engine() -> None:
    experiment = tiny(MutualNet(), nets="mlp", rounds=2)
    loop, together = (simulate(experiment, engine).metrics[-1] for engine in ("in-process", "together"))
    assert loop["distillation"] == pytest.approx(together["distillation"], rel=1e-5) and loop["distillation"] > 0
