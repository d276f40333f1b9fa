"""MoCo: its loss in loops, its queue, and the key encoder that follows and stays."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from bases import client_of, later, online, other_weights, shift, tiny, views_of, weights
from torch import Tensor
from torch.autograd import gradcheck

from fedkd import Experiment, InputError, simulate
from fedkd.losses import info_nce_loss
from fedkd.methods.contrastive import MoCo
from fedkd.methods.contrastive.moco import Queue

MOCO = MoCo(queue=32)


def rows(seed: int, count: int = 5) -> Tensor:
    return torch.randn(count, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cosine(x: Tensor, y: Tensor) -> float:
    return float(x @ y / (x.norm() * y.norm()))


def info_nce(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> float:
    """The definition, term by term."""
    total = 0.0
    for query, key in zip(queries, keys, strict=True):
        own = math.exp(cosine(query, key) / temperature)
        others = sum(math.exp(cosine(query, other) / temperature) for other in queue)
        total -= math.log(own / (own + others)) / len(queries)
    return total


@pytest.mark.recomputed("info_nce_loss", by="formula")
@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("queue", [1, 7])
def test_info_nce_equals_the_definition(temperature: float, queue: int) -> None:
    expected = info_nce(rows(0), rows(1), rows(2, queue), temperature)
    loss = info_nce_loss(rows(0), rows(1), rows(2, queue), temperature=temperature)
    assert loss.item() == pytest.approx(expected, abs=1e-9)


def test_info_nce_against_an_empty_queue_is_zero() -> None:
    assert info_nce_loss(rows(0), rows(1), rows(2, 0), temperature=0.1).item() == 0


def test_info_nce_gradcheck() -> None:
    assert gradcheck(lambda q: info_nce_loss(q, rows(1), rows(2, 7), temperature=0.5), [rows(0).requires_grad_()])


def test_info_nce_names_a_wrong_shape() -> None:
    with pytest.raises(ValueError, match=r"info_nce_loss: positive is \(4, 4\); expected \(5, 4\)"):
        info_nce_loss(rows(0), rows(1, 4), rows(2), temperature=1.0)
    with pytest.raises(ValueError, match=r"info_nce_loss: queue is \(5, 3\); expected \(Q, 4\)"):
        info_nce_loss(rows(0), rows(1), rows(2)[:, :3], temperature=1.0)


def test_the_queue_holds_the_newest_keys_after_batches_of_any_size() -> None:
    """Sizes as a client's epochs have them: whole batches, a smaller last one, one of a sample more."""
    queue, told = Queue(torch.zeros(6, 1), 0), [0.0] * 6
    for size in (4, 3, 4, 2, 5, 6, 1, 9):
        keys = torch.arange(len(told), len(told) + size)[:, None].float()
        queue.add(keys)
        told += keys[:, 0].tolist()
        held = queue.keys.roll(-queue.oldest, 0)[:, 0].tolist()  # from the oldest
        assert held == told[-6:]


def test_the_queue_starts_with_directions_of_the_clients_own() -> None:
    first, again, other = (Queue.of(client_of(tiny(), id), 32).keys for id in (0, 0, 1))
    assert first.shape == (32, 256)
    assert torch.allclose(first.norm(dim=1), torch.ones(32))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_queue_lies_in_the_clients_memory_and_what_goes_on_from_it_writes_elsewhere() -> None:
    client = client_of(tiny())
    queue = Queue.of(client, 32)
    queue.add(torch.ones(5, 256))
    queue.keep(client)
    client = later(client, 2)
    kept = Queue.of(client, 32)
    assert torch.equal(kept.keys, queue.keys)
    assert kept.oldest == 5
    kept.add(torch.zeros(5, 256))
    assert torch.equal(client.memory.tensor("queue"), queue.keys)


@pytest.mark.recomputed("fedmoco", by="formula")
def test_the_loss_is_each_view_against_the_others_key_and_the_queue_as_it_was_before() -> None:
    client = client_of(tiny())
    net = online(client, MOCO)
    state = MOCO.start(client, net)
    shift(net, 0.01)
    before, views = state.queue.keys.clone(), views_of(client, net)
    loss = MOCO.loss(state, net, views)["local_contrastive"]
    keys = state.key.head("projection", state.key.features(views.inputs)).detach()
    k1, k2 = keys.chunk(2)
    z1, z2 = views.projected.detach().chunk(2)
    expected = (info_nce(z1, k2, before, 0.1) + info_nce(z2, k1, before, 0.1)) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(state.queue.keys[:16], F.normalize(keys, dim=1))
    assert torch.equal(state.queue.keys[16:], before[16:])


def test_the_gradient_goes_through_the_queries_only() -> None:
    client = client_of(tiny())
    net = online(client, MOCO)
    state = MOCO.start(client, net)
    MOCO.loss(state, net, views_of(client, net))["local_contrastive"].backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in net.heads.parameters())
    assert not any(parameter.requires_grad for parameter in state.key.parameters())
    assert not state.queue.keys.requires_grad


@pytest.mark.recomputed("fedmoco", by="hand")
def test_the_key_encoder_follows_by_its_momentum() -> None:
    base, client = MoCo(queue=32, momentum=0.75), client_of(tiny(nets="cnn"))
    net = online(client, base)
    state = base.start(client, net)
    before = weights(state.key)
    shift(net, 1.0)
    base.after_step(state, net)
    for name, tensor in state.key.state_dict().items():
        torch.testing.assert_close(tensor, before[name] + 0.25)


@pytest.mark.parametrize("resync", [False, True])
def test_the_key_encoder_starts_a_round_as_it_was_left_or_as_the_received_net(resync: bool) -> None:
    base, client = MoCo(queue=32, resync=resync), client_of(tiny())
    net = online(client, base)
    state = base.start(client, net)
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in state.key.state_dict().items())
    shift(state.key, 1.0)
    left = weights(state.key)
    base.finish(state, client, net)
    client = later(client, 2)
    net = online(client, base)
    base.receive(client, net, received := other_weights(client, base, "received"))
    state = base.start(client, net)
    expected = received if resync else left
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.key.state_dict().items())


def test_a_training_that_ends_in_nan_is_forgotten() -> None:
    client = client_of(tiny())
    net = online(client, MOCO)
    state = MOCO.start(client, net)
    drawn = state.queue.keys.clone()
    shift(net, math.nan)
    MOCO.after_step(state, net)
    state.queue.add(torch.full((4, 256), math.nan))
    MOCO.finish(state, client, net)
    client = later(client, 2)
    state = MOCO.start(client, online(client, MOCO))
    assert torch.equal(state.queue.keys, drawn)
    assert all(tensor.isfinite().all() for tensor in state.key.state_dict().values())


@pytest.mark.parametrize(
    "strategy", [{"name": "fedmoco", "queue": 100}, {"name": "fedx", "base": "moco", "base_options": {"queue": 100}}]
)
def test_a_queue_that_holds_no_whole_number_of_steps_is_refused_in_one_line(strategy: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"no multiple of the 64 keys .* set queue to 128") as caught:
        Experiment(strategy=strategy, train={"batch_size": 32}, data={"clients": 2, "partition": "iid"})
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_learns_more_than_the_encoder_it_starts_from() -> None:
    """Linear probe of the global encoder, seed 0: 0.721 before training, 0.855 after it."""
    data = {"clients": 5, "partition": "dirichlet", "alpha": 0.5, "self_balancing": True}
    train = {"epochs": 5, "batch_size": 32, "lr": 0.03}
    options = {"cnn": {"channels": [16, 32], "norm": "batch"}}
    settings = {"nets": "cnn", "net_options": options, "data": data, "train": train, "rounds": 1}
    settings |= {"evaluate_clients": 0, "evaluation": {"label_shares": []}}  # one probe of the global encoder is looked at
    first, *_, last = simulate(Experiment(strategy={"name": "fedmoco", "queue": 1024}, **settings)).metrics
    assert last["accuracy"] > first["accuracy"] + 0.04
