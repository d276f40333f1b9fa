"""Nets cut in two, branches on a shared trunk, gates, moving averages and exits: what one pass runs, and what it leaves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from fedkd.base.errors import InputError
from fedkd.base.randomness import seeded
from fedkd.nets import (
    ZOO,
    Branched,
    Encoder,
    Gate,
    MovingAverage,
    Net,
    NetWithExits,
    build_net,
    check_branches,
    check_exits,
    pooled,
    scale_gradient,
)
from fedkd.nets.moving_average import newest_share
from fedkd.nets.zoo import zoo_encoder

SMALL = {"resnet18": {"width": 4}, "cnn": {"channels": [4, 8], "hidden": 16}, "mlp": {"hidden": [16, 12]}}
SHAPE = (3, 16, 16)


def net_of(name: str, seed: int = 0) -> Net:
    with seeded(seed):
        return build_net(name, shape=SHAPE, classes=5, options=SMALL.get(name, {}))


def branched(name: str, branches: int = 3, split_scale: float = 1.0) -> Branched:
    return Branched([net_of(name, seed) for seed in range(branches)], split_scale=split_scale)


def images(seed: int = 0, count: int = 6) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


class Halves(Encoder):
    """A user's encoder that can be cut."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(math.prod(shape), 4), nn.Linear(4, 2)
        self.out_features = 2

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.second(self.first(images.flatten(1)))
        return features

    def cut(self) -> tuple[nn.Module, nn.Module]:
        return nn.Sequential(nn.Flatten(), self.first), self.second


class Whole(Encoder):
    """A user's encoder that cannot."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.out_features = math.prod(shape)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def logits_only(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))


def user_net(function: object) -> Net:
    return build_net(function, shape=SHAPE, classes=5)  # type: ignore[arg-type]


# Cutting


@pytest.mark.parametrize("name", sorted(ZOO))
def test_trunk_and_tail_hold_the_nets_own_weights_each_once(name: str) -> None:
    encoder = zoo_encoder(name, SMALL.get(name, {}))
    halves = encoder.cut()
    held = [id(tensor) for half in halves for tensor in (*half.parameters(), *half.buffers())]
    assert len(held) == len(set(held))
    assert set(held) == {id(tensor) for tensor in (*encoder.parameters(), *encoder.buffers())}
    assert all(any(True for _ in half.parameters()) for half in halves)


@pytest.mark.parametrize(
    ("name", "option", "said"),
    [
        ("mlp", {"hidden": [8]}, "give hidden two"),
        ("cnn", {"channels": [4]}, "give channels two"),
        ("cnn1d", {"channels": [4]}, "give channels two"),
        ("transformer", {"depth": 1}, "give it a depth of two"),
    ],
)
def test_a_net_of_one_layer_has_no_trunk(name: str, option: dict[str, list[int]], said: str) -> None:
    with pytest.raises(InputError, match=f"no trunk to share: {said}") as error:
        zoo_encoder(name, option).cut()
    with pytest.raises(InputError) as same:
        check_branches(name, option)
    assert str(same.value) == str(error.value)


def test_a_users_net_says_what_it_lacks_or_works() -> None:
    with pytest.raises(InputError, match="Whole cannot be cut into a trunk and a branch: override"):
        Branched([user_net(Whole)])
    with pytest.raises(InputError, match="logits_only' gives logits only: subclass"):
        Branched([user_net(logits_only)])
    assert Branched([user_net(Halves), user_net(Halves)])(images()).shape == (2, 6, 5)


# Branches


def test_branches_start_different_on_the_first_nets_trunk() -> None:
    nets = [net_of("cnn", seed) for seed in range(3)]
    net = Branched(nets)
    logits = net(images())
    assert logits.shape == (3, 6, 5)
    assert all(not torch.equal(logits[i], logits[j]) for i, j in [(0, 1), (0, 2), (1, 2)])
    assert torch.equal(logits[0], nets[0](images()))
    assert len(list(net.parameters())) == len(list(nets[0].parameters())) + 2 * 6  # a convolution, hidden, classifier


def test_one_pass_runs_the_trunk_once_for_all_branches() -> None:
    net, runs = branched("resnet18").train(), []
    copy = deepcopy(net)
    for module in (net.trunk, *net.tails):
        module.register_forward_hook(lambda module, inputs, output: runs.append(module))
    found = net.outputs(images())
    assert runs == [net.trunk, *net.tails]
    copy.tails[0](copy.trunk(images()))  # by hand: a pass of trunk and first tail
    for own, expected in ((net.trunk, copy.trunk), (net.tails[0], copy.tails[0])):
        assert [(n, b.tolist()) for n, b in own.named_buffers()] == [(n, b.tolist()) for n, b in expected.named_buffers()]
    assert {int(b) for n, b in net.named_buffers() if n.endswith("num_batches_tracked")} == {1}
    assert (len(found.maps), found.features.shape, found.logits.shape) == (1, (3, 6, 32), (3, 6, 5))


def test_each_branch_sees_its_own_view_under_the_views_own_statistics() -> None:
    net, views = branched("resnet18").train(), [images(seed) for seed in range(3)]
    alone = [deepcopy(net)(view)[i] for i, view in enumerate(views)]
    found = net.outputs(*views)
    assert torch.equal(found.logits, torch.stack(alone))
    assert len(found.maps) == 3
    counts = [{int(b) for n, b in part.named_buffers() if n.endswith("tracked")} for part in (net.trunk, net.tails)]
    assert counts == [{3}, {1}]
    with pytest.raises(ValueError, match="2 views of 3 branches: give one, or one for each"):
        net(*views[:2])


@pytest.mark.parametrize("own_views", [False, True])
def test_the_gradient_is_scaled_where_the_branches_meet(own_views: bool) -> None:
    def gradients(split_scale: float) -> tuple[list[Tensor], list[Tensor]]:
        net = branched("cnn", split_scale=split_scale)
        net(*[images(seed) for seed in range(3 if own_views else 1)]).square().mean().backward()
        parts: Sequence[nn.Module] = (net.trunk, nn.ModuleList([net.tails, net.classifiers]))
        trunk, rest = ([p.grad for p in part.parameters() if p.grad is not None] for part in parts)
        return trunk, rest

    (trunk, rest), (whole, same) = gradients(0.25), gradients(1.0)  # 0.25: exact in binary
    assert len(trunk) == 2 and all(torch.equal(one, 0.25 * other) for one, other in zip(trunk, whole, strict=True))
    assert len(rest) == 18 and all(torch.equal(one, other) for one, other in zip(rest, same, strict=True))


def test_a_scaled_gradient_leaves_the_value() -> None:
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    y = scale_gradient(x, 1 / 3)
    assert torch.equal(y, x)
    (y * torch.tensor([3.0, 6.0])).sum().backward()
    assert x.grad is not None and x.grad.tolist() == pytest.approx([1.0, 2.0])
    assert scale_gradient(x, 1.0) is x


# The gate


def test_a_gate_by_hand() -> None:
    """Pooled 1 and 3; linear 1 and 3 for branch 0, -1 and -3 for branch 1; normalised -1, 1 and 1, -1; ReLU; softmax."""
    gate = Gate(1, 2).train()
    with torch.no_grad():
        gate.linear.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        gate.linear.bias.zero_()
    shares = gate(torch.tensor([[[[0.0, 2.0]]], [[[3.0, 3.0]]]]))  # (2, 1, 1, 2)
    least = 1 / (1 + math.e)
    torch.testing.assert_close(shares, torch.tensor([[least, 1 - least], [1 - least, least]]), atol=1e-4, rtol=0)


def test_what_has_no_places_is_pooled_already() -> None:
    flat = torch.randn(3, 4)
    assert torch.equal(pooled(flat), flat)
    assert pooled(torch.tensor([[[[1.0, 3.0]]]])).tolist() == [[2.0]]


# The moving average


def test_the_share_of_the_newest_weights_is_what_the_decay_leaves() -> None:
    """Of decays min(1 - 1/(t + 1), 0.7): 0, 1/2, 2/3, and then 0.7 instead of 3/4 and more."""
    shares = [newest_share(torch.tensor(t), 0.7).item() for t in (0, 1, 2, 3, 1000)]
    assert shares == pytest.approx([1.0, 1 / 2, 1 / 3, 0.3, 0.3])


def test_the_average_is_a_copy_then_a_mean_then_decays_at_most_so_much() -> None:
    """Weights 1, 3, 5, 10 after steps 0..3, at most 0.6: the copy 1; half of 3: 2; shares 2/5 of 5 (not 1/3) and 2/5 of 10."""
    net = nn.Linear(1, 1, bias=False)
    average, seen = MovingAverage(net, most=0.6, first=0), []
    for weight in (1.0, 3.0, 5.0, 10.0):
        nn.init.constant_(net.weight, weight)
        average.follow(net)
        seen.append(average.net.weight.item())
    assert seen == pytest.approx([1.0, 2.0, 0.6 * 2 + 0.4 * 5, 0.6 * 3.2 + 0.4 * 10])
    assert int(average.state_dict()["steps"]) == 4  # travels with the weights


def test_the_average_is_constant_and_keeps_batch_statistics_of_its_own() -> None:
    net = branched("resnet18").train()
    average = MovingAverage(net, most=0.999, first=0).train()
    assert not any(p.requires_grad for p in average.parameters()) and all(p.requires_grad for p in net.parameters())
    statistics = {name: buffer.clone() for name, buffer in net.named_buffers()}
    said = average(images())
    assert not said.requires_grad and said.shape == (3, 6, 5)
    assert all(torch.equal(buffer, statistics[name]) for name, buffer in net.named_buffers())
    assert any(not torch.equal(buffer, statistics[name]) for name, buffer in average.net.named_buffers())
    own = {name: buffer.clone() for name, buffer in average.net.named_buffers()}
    average.follow(net)
    assert all(torch.equal(buffer, own[name]) for name, buffer in average.net.named_buffers())


# Exits


@pytest.mark.parametrize(("name", "exits"), [("resnet18", 4), ("cnn", 2)])
def test_an_exit_at_each_size_and_the_net_itself_as_the_last(name: str, exits: int) -> None:
    net = net_of(name).eval()
    expected, features = net(images()), net.features(images())
    with_exits = NetWithExits(net, 5, images(count=1)).eval()
    found = with_exits.outputs(images())
    assert found.logits.shape == (exits, 6, 5)
    assert torch.equal(found.logits[-1], expected) and torch.equal(found.features, features)
    assert [own.shape for own in found.adapted] == [features.shape] * (exits - 2)
    assert torch.equal(with_exits(images()), found.logits)


def test_making_exits_leaves_no_statistics_and_one_pass_counts_once() -> None:
    net = NetWithExits(net_of("resnet18"), 5, images(count=1))
    assert net.training and net.net.training
    tracked = [b for n, b in net.named_buffers() if n.endswith("num_batches_tracked")]
    assert {int(b) for b in tracked} == {0}
    net.outputs(images()).logits.square().sum().backward()
    assert {int(b) for b in tracked} == {1}
    assert all(p.grad is not None for n, p in net.named_parameters() if "adapters" not in n)


def test_nets_without_maps_on_the_way_have_no_exits() -> None:
    with pytest.raises(InputError, match="net 'mlp' has no feature maps for exits"):
        check_exits("mlp")
    with pytest.raises(InputError, match="net 'mlp' has no feature maps for exits"):
        NetWithExits(net_of("mlp"), 5, images(count=1))
    with pytest.raises(InputError, match="net 'cnn' has no feature maps for exits"):
        NetWithExits(build_net("cnn", shape=SHAPE, classes=5, options={"channels": [4]}), 5, images(count=1))
    with pytest.raises(InputError, match=r"logits_only' has no feature maps for exits"):
        NetWithExits(user_net(logits_only), 5, images(count=1))
    check_exits("cnn")
    check_exits("my_module:net")  # found out when it is built
