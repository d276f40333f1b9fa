"""BYOL's loss, the target net that follows, and what FedU's and FedEMA's clients make of the global weights."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from bases import client_of, later, online, other_weights, shift, tiny, views_of, weights
from torch import Tensor
from torch.autograd import gradcheck

from fedkd import Client, Experiment, InputError, simulate
from fedkd.losses import byol_loss
from fedkd.methods.contrastive import BYOL, Base, DivergenceAwareAverage, DivergenceAwarePredictor, make_base
from fedkd.methods.contrastive.divergence import kernels, weight_divergence
from fedkd.nets import Net

BASES: list[Any] = [BYOL(), DivergenceAwarePredictor(), DivergenceAwareAverage()]
PREDICTOR = "heads.target_prediction."


def rows(seed: int, count: int = 5) -> Tensor:
    return torch.randn(count, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cosine(x: Tensor, y: Tensor) -> float:
    return float(x @ y / (x.norm() * y.norm()))


@pytest.mark.recomputed("byol_loss", by="formula")
def test_byol_loss_is_the_squared_distance_of_directions() -> None:
    expected = sum(2 - 2 * cosine(p, t) for p, t in zip(rows(0), rows(1), strict=True)) / 5
    assert byol_loss(rows(0), rows(1)).item() == pytest.approx(expected, abs=1e-12)
    p, t = (each / each.norm(dim=1, keepdim=True) for each in (rows(0), rows(1)))
    assert byol_loss(rows(0), rows(1)).item() == pytest.approx(float((p - t).square().sum()) / 5, abs=1e-12)


@pytest.mark.recomputed("byol_loss", by="hand")
def test_byol_loss_of_equal_right_angled_and_opposite_directions_by_hand() -> None:
    east, north = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 0.5]])
    assert [byol_loss(east, other).item() for other in (2 * east, north, -east)] == [0, 2, 4]


def test_byol_loss_gradcheck_and_no_gradient_into_the_target() -> None:
    prediction, target = rows(0).requires_grad_(), rows(1).requires_grad_()
    assert gradcheck(lambda p: byol_loss(p, target.detach()), [prediction])
    byol_loss(prediction, target).backward()
    assert target.grad is None


def test_byol_loss_of_a_zero_prediction_is_that_of_a_right_angle_with_no_gradient() -> None:
    prediction = torch.zeros(1, 4, requires_grad=True)
    loss = byol_loss(prediction, torch.ones(1, 4))
    loss.backward()
    assert loss.item() == 2
    assert prediction.grad is not None
    assert not prediction.grad.any()


def test_byol_loss_names_a_wrong_shape() -> None:
    with pytest.raises(ValueError, match=r"byol_loss: teacher is \(4, 4\); expected \(5, 4\)"):
        byol_loss(rows(0), rows(1, 4))


def standardise(x: Tensor) -> Tensor:
    """Each column less its mean, over its deviation."""
    return (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()


@pytest.mark.recomputed("fedbyol", "fedu", "fedema", by="formula")
@pytest.mark.parametrize("base", BASES)
def test_the_loss_is_both_directions_through_the_predictor_and_the_target(base: Base[Any]) -> None:
    client = client_of(tiny(nets="cnn"))
    net = online(client, base)
    state = base.start(client, net)
    shift(net, 0.01)
    views = views_of(client, net)
    (loss,) = base.loss(state, net, views).values()
    x1, x2 = views.inputs.chunk(2)
    q1, q2 = net.head("target_prediction", standardise(views.projected)).detach().chunk(2)
    xi = [state.target.head("projection", state.target.features(view)) for view in (x1, x2)]
    xi1, xi2 = standardise(torch.cat(xi)).chunk(2)
    pairs = [*zip(q1, xi2, strict=True), *zip(q2, xi1, strict=True)]
    assert loss.item() == pytest.approx(sum(2 - 2 * cosine(q, xi) for q, xi in pairs) / len(q1), rel=1e-4)


@pytest.mark.parametrize("base", BASES)
def test_the_target_starts_as_the_online_net_and_gets_no_gradient(base: Base[Any]) -> None:
    client = client_of(tiny())
    net = online(client, base)
    state = base.start(client, net)
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in state.target.state_dict().items())
    assert not any(name.startswith(PREDICTOR) for name in state.target.state_dict())
    base.loss(state, net, views_of(client, net))["local_contrastive"].backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in state.target.parameters())


@pytest.mark.parametrize("cls", [BYOL, DivergenceAwarePredictor, DivergenceAwareAverage])
def test_the_target_follows_by_its_momentum_and_keeps_batch_statistics_of_its_own(cls: Any) -> None:
    base, client = cls(momentum=0.75), client_of(tiny(nets="cnn", net_options={"cnn": {"channels": [4], "norm": "batch"}}))
    net = online(client, base)
    state = base.start(client, net)
    before, parameters = weights(state.target), dict(state.target.named_parameters())
    shift(net, 1.0)
    for buffer in net.buffers():
        buffer += 1
    base.after_step(state, net)
    for name, tensor in state.target.state_dict().items():
        torch.testing.assert_close(tensor, before[name] + (0.25 if name in parameters else 0))
    base.loss(state, net, views_of(client, net))
    assert state.target.state_dict()["encoder.norms.0.num_batches_tracked"] == 1


def train_once(client: Client, base: Base[Any], *, by: float = 0.1) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """One training that adds ``by`` to the online net; what it and the target are in the end."""
    net = online(client, base)
    state = base.start(client, net)
    shift(net, by)
    base.after_step(state, net)
    base.finish(state, client, net)
    return weights(net), weights(state.target)


@pytest.mark.parametrize("base", BASES)
def test_the_target_stays_with_the_client_whatever_it_receives(base: Base[Any]) -> None:
    client = client_of(tiny())
    _, left = train_once(client, base)
    client = later(client, 2)
    net = online(client, base)
    base.receive(client, net, other_weights(client, base, "received"))
    state = base.start(client, net)
    assert all(torch.equal(tensor, left[name]) for name, tensor in state.target.state_dict().items())


@pytest.mark.parametrize("base", BASES)
def test_a_client_that_never_trained_takes_all_it_receives(base: Base[Any]) -> None:
    client = client_of(tiny())
    net, received = online(client, base), other_weights(client, base, "received")
    base.receive(client, net, received)
    state = base.start(client, net)
    assert all(torch.equal(tensor, received[name]) for name, tensor in net.state_dict().items())
    assert all(torch.equal(tensor, received[name]) for name, tensor in state.target.state_dict().items())


@pytest.mark.parametrize("base", BASES)
def test_a_client_whose_training_ended_in_nan_starts_anew(base: Base[Any]) -> None:
    client = client_of(tiny())
    train_once(client, base, by=math.nan)
    client = later(client, 2)
    net, received = online(client, base), other_weights(client, base, "received")
    base.receive(client, net, received)
    state = base.start(client, net)
    assert all(torch.equal(tensor, received[name]) for name, tensor in net.state_dict().items())
    assert all(torch.equal(tensor, received[name]) for name, tensor in state.target.state_dict().items())


@pytest.mark.recomputed("fedu", "fedema", by="hand")
def test_divergence_is_the_mean_distance_of_kernels_and_without_any_of_matrices() -> None:
    """Adding 0.1 to each of n numbers moves them by 0.1 sqrt(n)."""
    expected = {"cnn": math.sqrt(4 * 9), "mlp": math.sqrt(64 * 8)}  # 4 kernels of 1x3x3; 8 rows of 64
    for nets, root in expected.items():
        client = client_of(tiny(nets=nets))
        train_once(client, DivergenceAwarePredictor())
        assert client.memory["divergence"] == pytest.approx(0.1 * root, rel=1e-4)


def test_divergence_of_an_encoder_without_weights_is_zero() -> None:
    assert weight_divergence(kernels(torch.nn.Flatten()), {}) == 0


@pytest.mark.parametrize(("mu", "taken"), [(2.27, True), (2.26, False)])  # the divergence is 0.1 sqrt(512) = 2.263
def test_fedu_takes_the_global_predictor_only_after_a_training_that_moved_less_than_mu(mu: float, taken: bool) -> None:
    base, client = DivergenceAwarePredictor(mu=mu), client_of(tiny())
    own, _ = train_once(client, base)
    client = later(client, 2)
    net, received = online(client, base), other_weights(client, base, "received")
    base.receive(client, net, received)
    for name, tensor in net.state_dict().items():  # the predictor's batch statistics too
        expected = own if name.startswith(PREDICTOR) and not taken else received
        assert torch.equal(tensor, expected[name]), name


def mixed(base: DivergenceAwareAverage, by: list[float], rounds: list[int]) -> tuple[Net, dict[str, Tensor], dict[str, Tensor]]:
    """The online net at the start of the last round, after trainings in the others that moved it so; its own and the global."""
    client, own = client_of(tiny()), {}
    for distance, round in zip(by, rounds, strict=False):
        client = later(client, round)
        net = online(client, base)
        base.receive(client, net, weights(net))
        own, _ = train_once(client, base, by=distance)
    client = later(client, rounds[-1])
    net, received = online(client, base), other_weights(client, base, "received")
    base.receive(client, net, received)
    base.start(client, net)
    return net, own, received


@pytest.mark.recomputed("fedema", by="formula")
@pytest.mark.parametrize(
    ("base", "by", "share"),
    [
        (DivergenceAwareAverage(), [0.2], 0.7),  # tau at first, whatever the divergence
        (DivergenceAwareAverage(tau=0.5), [0.2], 0.5),
        (DivergenceAwareAverage(), [0.2, 0.1], 0.35),  # half the divergence, half the share
        (DivergenceAwareAverage(), [0.1, 0.3], 1.0),  # at most 1
        (DivergenceAwareAverage(), [0.0, 0.1, 0.05], 0.35),  # the first divergence above 0 counts
        (DivergenceAwareAverage(), [0.0], 0.0),
        (DivergenceAwareAverage(scale=0.1), [0.1], 0.1 * 0.1 * math.sqrt(512)),
        (DivergenceAwareAverage(tau=0.0), [0.2, 0.1], 0.0),
    ],
)
def test_fedema_mixes_by_how_far_the_last_training_moved(base: DivergenceAwareAverage, by: list[float], share: float) -> None:
    net, own, received = mixed(base, by, list(range(1, len(by) + 2)))
    parameters = dict(net.named_parameters())
    for name, tensor in net.state_dict().items():
        expected = share * own[name] + (1 - share) * received[name] if name in parameters else received[name]
        torch.testing.assert_close(tensor, expected)


def test_fedema_can_go_by_the_distance_to_the_global_encoder() -> None:
    base, client = DivergenceAwareAverage(scale=0.01, divergence="global"), client_of(tiny())
    own, _ = train_once(client, base)
    client = later(client, 2)
    net, received = online(client, base), other_weights(client, base, "received")
    base.receive(client, net, received)
    name = "encoder.layers.0.weight"
    share = 0.01 * float((own[name] - received[name]).norm())
    assert 0 < share < 1
    torch.testing.assert_close(net.state_dict()[name], share * own[name] + (1 - share) * received[name])


def test_fedema_after_a_round_without_the_client_takes_all_that_is_global_and_a_new_target() -> None:
    base = DivergenceAwareAverage()
    net, _, received = mixed(base, [0.2], [1, 3])
    assert all(torch.equal(tensor, received[name]) for name, tensor in net.state_dict().items())
    client = client_of(tiny())
    train_once(client, base)
    client = later(client, 3)
    net = online(client, base)
    base.receive(client, net, received)
    assert all(torch.equal(tensor, received[name]) for name, tensor in base.start(client, net).target.state_dict().items())


def test_fedema_takes_the_head_of_another_method_from_the_global_net() -> None:
    base, client = DivergenceAwareAverage(), client_of(tiny())
    heads = (*base.heads, "prediction")
    net = client.net(heads=heads, keep=True)
    state = base.start(client, net)
    shift(net, 0.1)
    base.finish(state, client, net)
    client = later(client, 2)
    net = client.net(heads=heads, keep=True)
    received = {name: tensor + 1 for name, tensor in net.state_dict().items()}
    base.receive(client, net, received)
    assert torch.equal(net.heads["prediction"][0].weight, received["heads.prediction.0.weight"])
    assert not torch.equal(net.heads["projection"][0].weight, received["heads.projection.0.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["simclr", "moco", "byol", "fedu", "fedema"])
def test_fedx_left_with_its_base_is_the_bases_own_method(name: str) -> None:
    """Over two rounds, so that what stays at a client counts; a net without batch statistics does not see the anchors."""
    without = ("global_contrastive", "local_relational", "global_relational")
    options = {"queue": 64} if name == "moco" else {}
    fedx = {"name": "fedx", "base": name, "base_options": options, "without": without}
    own = {"name": name if name in ("fedu", "fedema") else f"fed{name}", **options}
    found, expected = (simulate(tiny(strategy, rounds=2)).metrics for strategy in (fedx, own))
    for round in (1, 2):
        assert found[round]["local_contrastive"] == pytest.approx(expected[round]["local_contrastive"], rel=1e-4)
        assert found[round]["loss"] == pytest.approx(found[round]["local_contrastive"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["byol", "fedu", "fedema"])
def test_fedx_puts_its_three_terms_beside_the_bases(name: str) -> None:
    row = simulate(tiny({"name": "fedx", "base": name}, rounds=2)).metrics[2]
    parts = ("local_contrastive", "global_contrastive", "local_relational", "global_relational")
    assert row["loss"] == pytest.approx(sum(row[part] for part in parts))
    assert row["local_contrastive"] < 8  # two directions of at most 4
    assert (row["clients_ok"], row["clients_failed"]) == (2, 0)


def test_a_base_has_its_own_fields_and_no_temperature() -> None:
    assert make_base("fedu", {"mu": 0.1}, temperature=0.5) == DivergenceAwarePredictor(mu=0.1)
    with pytest.raises(InputError, match=r"strategy\.base_options\.momentum"):
        make_base("byol", {"momentum": 1.5}, temperature=0.5)
    with pytest.raises(InputError, match=r"strategy\.base_options\.divergence"):
        make_base("fedema", {"divergence": "local"}, temperature=0.5)


@pytest.mark.slow
def test_bytes_are_those_of_encoder_projection_and_predictor() -> None:
    """The target net does not travel."""
    row = simulate(tiny("fedbyol", rounds=1)).metrics[1]
    encoder, projection = 64 * 8 + 8, 8 * 256 + 256 + 256 * 256 + 256
    predictor = 2 * (256 * 256 + 256) + 4 * 256
    assert row["bytes_up"] == row["bytes_down"] == 2 * (4 * (encoder + projection + predictor) + 8)  # and BatchNorm's counter


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fedbyol", "fedu", "fedema"])
def test_learns_more_than_the_encoder_it_starts_from(name: str) -> None:
    """Linear probe of the global encoder, seed 0: 0.730 before training, then 0.819, 0.805 and 0.833."""
    data = {"clients": 5, "partition": "dirichlet", "alpha": 0.5, "self_balancing": True}
    train = {"epochs": 5, "batch_size": 32, "lr": 0.1}
    options = {"cnn": {"channels": [16, 32], "norm": "batch"}}
    settings = {"nets": "cnn", "net_options": options, "data": data, "train": train, "rounds": 3, "evaluate_every": 3}
    settings |= {"evaluate_clients": 0, "evaluation": {"label_shares": []}}  # one probe of the global encoder is looked at
    first, *_, last = simulate(Experiment(strategy={"name": name, "momentum": 0.996}, **settings)).metrics
    assert last["accuracy"] > first["accuracy"] + 0.04
