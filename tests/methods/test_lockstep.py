"""Lockstep: peers on the same mini-batches, one exchange each. What holds for all strategies of peers, found by looking."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from itertools import combinations
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fedkd.strategies.dml import DML
from fedkd.strategies.kdcl import KDCL
from flwr.app import Message
from grids.forgetful import ForgetfulGrid
from torch import Tensor, nn

from fedkd import Batch, Client, Experiment, History, InputError, Knowledge, Node, RunFailed, Server, Strategy, simulate
from fedkd.experiment.algorithm.work import Work
from fedkd.experiment.registry import load, strategies
from fedkd.grids import InProcessGrid, JobGrid
from fedkd.knowledge.memory import Memory
from fedkd.methods.peers.lockstep import gather
from fedkd.methods.peers.turns import plan
from fedkd.nets import Encoder

#: Every strategy whose clients need the same samples, shipped or added.
pytestmark = pytest.mark.slow  # the fast ones are in tests/strategies/test_dml.py and test_kdcl.py
LOCKSTEP = sorted(name for name, cls in strategies().items() if cls.needs.shared_data)
#: The same, of which one is looked at in seconds and the others when there is time.
OPTIONS = {"resnet18": {"width": 4}, "cnn": {"channels": [4, 8], "hidden": 16}, "mlp": {"hidden": [16]}}
TINY = "test_lockstep:Tiny"


class Tiny(Encoder):
    """A net of one's own, with batch statistics, dropout and two feature maps in few weights."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.out_features = 8
        self.first = nn.Sequential(nn.Conv2d(shape[0], 4, 3, padding=1), nn.BatchNorm2d(4))
        self.second = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 8, 3, stride=2), nn.BatchNorm2d(8))
        self.dropout = nn.Dropout(0.2)

    def forward(self, images: Tensor) -> Tensor:
        return self.stages(images)[1]

    def stages(self, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        one = self.first(images)  # (B, 4, H, W)
        two = self.second(one)  # (B, 8, H/2, W/2)
        return (one, two), self.dropout(F.relu(two)).mean(dim=(2, 3))


def peers(strategy: Any, *, clients: int = 3, samples: int = 40, **changes: Any) -> Experiment:
    """K peers, a round of batches of 16, 16 and 8 digits, 20 validation digits where the strategy or the caller asks."""
    cls = load(strategy) if isinstance(strategy, str) else type(strategy)
    held_out = 20 if cls.needs.validation or getattr(strategy, "target", "") == "general" else 0
    data = {"clients": clients, "partition": "shared", "validation": held_out, "train_limit": samples + held_out}
    data |= {"client_test": 0.0, "test_limit": 20, **changes.pop("data", {})}
    train = {"batch_size": 16, "lr": 0.05, **changes.pop("train", {})}
    settings = {"rounds": 1, "nets": "cnn", "net_options": OPTIONS, **changes}
    return Experiment(strategy=strategy, data=data, train=train, **settings)


def memories(experiment: Experiment, grid: JobGrid | None = None) -> tuple[History, dict[int, Memory]]:
    """A run, and what its clients remember at its end: nets, buffers, momentum."""
    grid, found = grid or InProcessGrid(), dict[int, Memory]()
    close = grid.close

    def look_and_close() -> None:
        found.update({node: Memory.read(state) for node, state in grid.states().items()})
        close()

    grid.close = look_and_close  # type: ignore[method-assign]
    return simulate(experiment, grid), found


def assert_same(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Equal names and, bit for bit, equal values."""
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]) if isinstance(value, Tensor) else value == theirs[name], name


def node_of(experiment: Experiment, id: int | None, *, round: int = 1, exchange: int = 0) -> Any:
    """A client, or the server, without an engine."""
    arguments = (experiment, experiment.functions(), experiment.federation(), Memory(), torch.device("cpu"))
    node = Server(*arguments) if id is None else Client(id, *arguments)
    node.round, node.exchange = round, exchange
    return node


def watch(
    monkeypatch: pytest.MonkeyPatch, strategy: str, act: Callable[[Client, Knowledge, Callable[[], Knowledge]], Knowledge]
) -> None:
    """``act`` stands in the place of a strategy's client half, which it may call."""
    cls = load(strategy)
    update = cls.client_update
    monkeypatch.setattr(
        cls, "client_update", lambda self, client, broadcast: act(client, broadcast, lambda: update(self, client, broadcast))
    )


def lines(history: History, round: int, **wanted: Any) -> list[dict[str, Any]]:
    rows = [row for row in history.clients if row["round"] == round]
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


# ---- one peer alone


def plain_training(experiment: Experiment) -> dict[str, Tensor]:
    """Cross-entropy on the same batches, as one writes it in PyTorch, from the weights that the peer starts with."""
    client = node_of(experiment, 0)
    net = client.net(init="own", keep=True)
    settings = experiment.train
    optimizer = torch.optim.SGD(
        net.parameters(), lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay, fused=True
    )
    net.train()
    for round in range(1, experiment.rounds + 1):
        schedule = plan(node_of(experiment, 0, round=round))
        for number in range(len(schedule.draws)):
            batch = schedule.batch(number)
            optimizer.zero_grad()
            F.cross_entropy(net(batch.inputs), batch.labels).backward()
            optimizer.step()
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


ALONE = [
    *(DML(update=update) for update in ("simultaneous", "sequential", "alternating")),
    *(DML(target="ensemble"), DML(loss="dist", weight=3.0), DML(ramp=0.5)),
    *(KDCL(target=target, own_views=False) for target in ("naive", "linear", "min_logit", "general", "mean")),
]


@pytest.mark.parametrize("strategy", ALONE, ids=str)
def test_one_peer_alone_is_cross_entropy_bit_for_bit(strategy: Strategy) -> None:
    experiment = peers(strategy, clients=1, nets="resnet18", rounds=2)
    _, found = memories(experiment)
    assert_same(found[0].under("net/main/"), plain_training(experiment))


@pytest.mark.parametrize("name", LOCKSTEP)
def test_one_peer_alone_has_nobody_to_learn_from(name: str) -> None:
    """What it is taught is 0, and its weight without effect. Or the strategy says in one line that it needs more peers."""
    try:
        experiment = peers(name, clients=1, rounds=2)
    except InputError as error:
        assert "data.clients" in str(error)
        return
    rows = simulate(experiment).metrics[1:]
    taught = [value for row in rows for key, value in row.items() if "distillation" in key and key != "distillation_weight"]
    assert not any(taught)
    assert all(row["clients_ok"] == 1 and row["loss"] >= row["cross_entropy"] > 0 for row in rows)
    weighted = "weight" in {field.name for field in fields(experiment.strategy)}
    assert taught or weighted
    if weighted:
        unweighted = peers(replace(experiment.strategy, weight=0.0), clients=1, rounds=2)
        assert_same(memories(unweighted)[1][0].under("net/main/"), memories(experiment)[1][0].under("net/main/"))


# ---- the same bits everywhere

MIXED = {"resnet18": 1 / 3, TINY: 2 / 3}
EVERYWHERE = [
    *(DML(update=update) for update in ("simultaneous", "sequential", "alternating")),
    *(DML(target="ensemble"), KDCL(target="general"), KDCL()),
    *(name for name in LOCKSTEP if name not in ("dml", "kdcl")),
]


def everywhere(strategy: Any) -> Experiment:
    """Three steps of a ResNet with batch norm and of two nets that have dropout too, where nets may differ."""
    try:
        return peers(strategy, nets=MIXED)
    except InputError:
        return peers(strategy, nets=TINY)


@pytest.mark.parametrize("strategy", EVERYWHERE, ids=str)
def test_a_grid_that_forgets_leaves_the_same_nets(strategy: Any) -> None:
    """It repeats each forward pass on the buffers from before it, with the same dropout."""
    (_, here), (_, there) = memories(everywhere(strategy)), memories(everywhere(strategy), ForgetfulGrid())
    assert here.keys() == there.keys() == {0, 1, 2}
    for peer, memory in here.items():
        assert_same(memory, there[peer])


@pytest.mark.parametrize("strategy", [DML(), DML(update="sequential"), KDCL(target="general")], ids=str)
def test_ray_leaves_the_same_nets(strategy: Any, hired: Callable[[], JobGrid]) -> None:
    (_, here), (_, there) = memories(everywhere(strategy)), memories(everywhere(strategy), hired())
    assert here.keys() == there.keys() == {0, 1, 2}
    for peer, memory in here.items():
        assert_same(memory, there[peer])


class Backwards(InProcessGrid):  # type: ignore[misc]
    """Runs the last client first, and replies come in that order."""

    def send_and_receive(self, messages: Sequence[Message], *, timeout: float | None = None) -> Sequence[Message]:  # type: ignore[override]
        return list(super().send_and_receive(list(messages)[::-1], timeout=timeout))


@pytest.mark.parametrize("name", LOCKSTEP)
def test_who_is_asked_and_answers_first_changes_nothing(name: str) -> None:
    (_, here), (_, there) = memories(peers(name)), memories(peers(name), Backwards())
    for peer, memory in here.items():
        assert_same(memory, there[peer])


SWAPPED = [
    *((DML(), 2), (DML(target="ensemble"), 3), (KDCL(own_views=False), 3)),
    *((KDCL(target="mean", own_views=False), 3), (KDCL(target="general", own_views=False), 2)),
]


@pytest.mark.parametrize(("strategy", "clients"), SWAPPED, ids=str)
def test_peers_that_swap_names_swap_results(strategy: Strategy, clients: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer's weights and dropout come from its name, and nothing else tells peers of one net apart: not one bit.

    Of more than two peers, autograd adds up the gradients of pairwise divergences in the order of ids: equal up to rounding.
    """
    experiment = peers(strategy, nets=TINY, clients=clients)
    _, before = memories(experiment)
    monkeypatch.setattr(Client, "name", property(lambda self: f"client {(1, 0, 2)[self.id]}"))
    _, after = memories(experiment)
    for peer, other in ((0, 1), (1, 0), (2, 2))[:clients]:
        assert_same(before[peer], after[other])


def test_what_was_said_is_stacked_by_peer_and_not_by_arrival() -> None:
    server = node_of(peers("dml"), None)
    said = {peer: Knowledge.of("logits", {"logits": torch.full((16, 10), float(peer))}) for peer in (2, 0, 1)}
    heard = gather(server, said)
    assert isinstance(heard, Knowledge)
    assert heard.header["peers"] == "0,1,2"
    assert heard.tensors["logits"][:, 0, 0].tolist() == [0, 1, 2]


# ---- batch statistics, passes


def tracked(memory: Memory) -> set[int]:
    counts = {int(value) for name, value in memory.under("net/main/").items() if name.endswith("num_batches_tracked")}
    assert counts
    return counts


@pytest.mark.parametrize(
    ("update", "learned"), [("simultaneous", [6, 6, 6]), ("sequential", [6, 6, 6]), ("alternating", [2, 2, 2])]
)
def test_batch_statistics_move_once_for_each_batch_that_a_peer_learns_from(update: str, learned: list[int]) -> None:
    """Two rounds of three batches; of what it only speaks of there is no trace."""
    _, found = memories(peers(DML(update=update), nets=TINY, rounds=2))
    assert [tracked(memory) for _, memory in sorted(found.items())] == [{count} for count in learned]


@pytest.mark.parametrize("name", LOCKSTEP)
def test_in_every_strategy_they_move_once_a_batch(name: str) -> None:
    _, found = memories(peers(name, nets=TINY))
    assert [tracked(memory) for memory in found.values()] == [{3}] * 3


@pytest.mark.parametrize("update", ["simultaneous", "sequential", "alternating"])
def test_after_one_batch_the_buffers_are_those_of_one_forward_pass(update: str) -> None:
    """In the alternating mode the first peer alone learns from the only batch: the others stay what they were."""
    experiment = peers(DML(update=update), nets=TINY, samples=16)
    _, found = memories(experiment)
    for id, memory in found.items():
        client = node_of(experiment, id)
        net = client.net(init="own").train()
        before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        net(plan(client, update).batch(0).inputs)
        if update == "alternating" and id > 0:
            assert_same(memory.under("net/main/"), before)
        else:
            assert_same({name: memory.tensor(f"net/main/{name}") for name, _ in net.named_buffers()}, dict(net.named_buffers()))


#: Peers with optimisers of their own for parts of their loss go back once for each; FFSD's leader has more than its students.
BACKWARD = {"afd": 27, "amln": 18, "ffsd": 15}


@pytest.mark.parametrize("name", LOCKSTEP)
def test_a_step_is_one_forward_and_one_backward_pass_a_peer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps of three peers. A pass is a call of the first convolution in train mode; evaluation is not counted."""
    forwards, backwards = list[Tensor](), list[int]()

    def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, nn.Conv2d) and module.in_channels == 1 and module.training and not inputs[0].is_meta:
            forwards.append(inputs[0])

    backward = torch.autograd.backward
    monkeypatch.setattr(torch.autograd, "backward", lambda *given, **named: backwards.append(1) or backward(*given, **named))
    handle = nn.modules.module.register_module_forward_pre_hook(count)
    try:
        simulate(peers(name, nets=TINY), InProcessGrid())
    finally:
        handle.remove()
    _rehearsal, *steps = forwards  # a few samples go through the net before the first round
    assert [len(images) for images in steps] == [16] * 6 + [8] * 3
    assert len(backwards) == BACKWARD.get(name, 9)


@pytest.mark.parametrize("name", LOCKSTEP)
def test_peers_start_from_different_weights_on_the_same_batches(name: str) -> None:
    """Equal peers would say the same and learn nothing from each other."""
    experiment = peers(name, nets=TINY)
    clients = [node_of(experiment, id) for id in range(3)]
    for client in clients:
        experiment.strategy.client_update(client, Knowledge())
        client.flush()
    nets = [client.memory.under("net/main/") for client in clients]
    weights = [torch.cat([tensor.flatten() for tensor in net.values() if tensor.dim() > 1]) for net in nets]  # (W,) each
    for one, other in combinations(weights, 2):
        assert (one - other).norm() > one.norm()  # independent draws are sqrt 2 norms apart
    for number in range(3):
        first, *others = (plan(client).batch(number) for client in clients)
        for other in others:
            assert torch.equal(first.ids, other.ids) and torch.equal(first.labels, other.labels)
            assert torch.equal(first.inputs, other.inputs) and torch.equal(first.view(0), other.view(0))
    assert not torch.equal(first.view(0), first.view(1))


# ---- who speaks of something else, fails or diverges


@pytest.mark.parametrize("name", LOCKSTEP)
def test_a_peer_with_other_labels_is_rejected_in_words(name: str) -> None:
    experiment = peers(name, attack={"name": "label_flip", "share": 1 / 3})
    row = simulate(experiment).metrics[1]
    assert (row["clients_ok"], row["clients_failed"]) == (2, 1)
    (reason,) = row["failures"].values()
    assert reason.startswith("upload rejected: it speaks of batch ")
    assert reason.endswith("give all peers the same data and labels")


@pytest.mark.parametrize("name", LOCKSTEP)
@pytest.mark.parametrize("kept", [39, 12], ids=["one sample less", "fewer batches"])
def test_a_peer_with_other_samples_is_rejected_too(name: str, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fewer(client: Client, broadcast: Knowledge, update: Callable[[], Knowledge]) -> Knowledge:
        if client.id == 0:
            samples = client.federation.client_train(0)
            client.train_samples = replace(samples, indices=samples.indices[:kept])
        return update()

    watch(monkeypatch, name, fewer)
    row = simulate(peers(name), InProcessGrid()).metrics[1]
    assert (row["clients_ok"], row["clients_failed"]) == (2, 1)
    assert row["failures"]["0"].startswith("upload rejected: ")


def test_a_broadcast_of_another_batch_makes_the_client_fail_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    update = DML.server_update

    def confuse(self: DML, server: Server, uploads: Mapping[int, Knowledge]) -> Any:
        answer = update(self, server, uploads)
        assert isinstance(answer, Knowledge)
        other = answer.with_header(batch="another")
        return {peer: other if (peer, server.exchange) == (1, 1) else answer for peer in uploads}

    monkeypatch.setattr(DML, "server_update", confuse)
    row = simulate(peers("dml"), InProcessGrid()).metrics[1]
    assert (row["clients_ok"], row["clients_failed"]) == (2, 1)
    assert row["failures"]["1"].startswith("ValueError: the broadcast speaks of batch another, not of ")


@pytest.mark.parametrize("name", LOCKSTEP)
def test_who_fails_at_a_step_leaves_until_the_next_round(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[int, int, int, str]] = []

    def fail_once(client: Client, broadcast: Knowledge, update: Callable[[], Knowledge]) -> Knowledge:
        if (client.id, client.round, client.exchange) == (1, 1, 2):
            raise RuntimeError("the disk is full")
        heard.append((client.id, client.round, client.exchange, str(broadcast.header.get("peers", ""))))
        return update()

    watch(monkeypatch, name, fail_once)
    history = simulate(peers(name, rounds=2), InProcessGrid())
    assert [(row["clients_ok"], row["clients_failed"]) for row in history.metrics[1:]] == [(2, 1), (3, 0)]
    assert history.metrics[1]["failures"] == {"1": "RuntimeError: the disk is full"}
    assert {e for id, round, e, _ in heard if (id, round) == (1, 1)} == {0, 1}
    assert {e for id, round, e, _ in heard if (id, round) == (1, 2)} == {0, 1, 2, 3}
    named = {exchange: set(peers.split(",")) for id, round, exchange, peers in heard if id == 0 and round == 1}
    assert "1" in named[1] & named[2] and "1" not in named[3]


@pytest.mark.parametrize(
    "strategy", [DML(), DML(target="ensemble"), DML(update="sequential"), KDCL(), KDCL(target="general")], ids=str
)
def test_of_two_the_one_who_is_left_goes_on_with_labels_alone(strategy: Strategy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other fails at once: the round is that of a peer that was alone from the start."""

    def fail(client: Client, broadcast: Knowledge, update: Callable[[], Knowledge]) -> Knowledge:
        if client.id == 1:
            raise RuntimeError("no power")
        return update()

    _, alone = memories(peers(strategy, clients=1, nets=TINY))
    watch(monkeypatch, type(strategy).__name__.lower(), fail)
    history, found = memories(peers(strategy, clients=2, nets=TINY))
    row = history.metrics[1]
    assert (row["clients_ok"], row["clients_failed"], row["distillation"]) == (1, 1, 0)
    assert_same(found[0].under("net/main/"), alone[0].under("net/main/"))


@pytest.mark.parametrize("make", [InProcessGrid, ForgetfulGrid])
def test_what_a_round_that_a_peer_left_has_left_is_gone_in_the_next(
    make: type[JobGrid], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third of three uploads is rejected: two batches were learned from, of the third one there was a pass only."""

    def turn_nan_once(client: Client, broadcast: Knowledge, update: Callable[[], Knowledge]) -> Knowledge:
        upload = update()
        if (client.id, client.round, client.exchange) == (1, 1, 2):
            return replace(upload, tensors={"logits": upload.tensors["logits"] * torch.nan})
        return upload

    watch(monkeypatch, "dml", turn_nan_once)
    history, found = memories(peers("dml", nets=TINY, rounds=2, train={"lr": 1e-9}), make())
    assert "not finite" in history.metrics[1]["failures"]["1"]
    assert tracked(found[1]) == {2 + 3}
    left, other = lines(history, 2, client=1)[0], lines(history, 2, client=0)[0]
    assert 0.5 < left["cross_entropy"] / other["cross_entropy"] < 1.6  # nobody learns at this rate; 5/3 with losses twice
    assert left["distillation_weight"] == 1


def test_a_peer_that_diverges_is_named_and_no_nan_reaches_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Node.work

    def absurd(self: Node) -> Work:
        return replace(work(self), lr=1e30) if self.name == "client 1" else work(self)

    monkeypatch.setattr(Node, "work", absurd)
    for strategy in (DML(), DML(update="sequential"), KDCL(), KDCL(target="general")):
        history, found = memories(peers(strategy, rounds=2))
        for row in history.metrics[1:]:
            assert (row["clients_ok"], row["clients_failed"]) == (2, 1)
            assert "its logits are not finite; lower train.lr" in row["failures"]["1"]
            assert row["loss"] == row["loss"] < 20
        assert all(bool(tensor.isfinite().all()) for memory in found.values() for tensor in memory.under("net/").values())


def test_a_loss_that_is_not_finite_is_reported_with_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits still finite, the loss no longer: at the round's end the peer says what happened, and what to do."""
    monkeypatch.setattr(Batch, "cross_entropy", lambda batch, logits: logits.sum() * torch.nan)
    reason = r"TrainingError: client 0, round 1: the loss is not finite \(cross_entropy nan, .*lower train.lr or set train.clip"
    with pytest.raises(RunFailed, match=reason):
        simulate(peers("dml", samples=16), InProcessGrid())


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch, as every object is looked at
def test_a_run_keeps_no_clients_of_past_rounds() -> None:
    simulate(peers("dml", rounds=3, nets="mlp"), InProcessGrid())
    gc.collect()
    assert not [each for each in gc.get_objects() if isinstance(each, Client)]


# ---- settings

SETTINGS: dict[str, dict[str, Any]] = {
    "bf16": {"train": {"precision": "bf16"}},
    "some of the peers": {"participation": 0.5, "rounds": 3},
    "some of the labels": {"data": {"labelled": 0.5}},
    "two epochs, clipped": {"train": {"epochs": 2, "clip": 1.0}},
    "adam": {"train": {"optimizer": "adam", "schedule": "cosine"}, "rounds": 2},
    "float16 both ways": {"uplink": "float16", "downlink": "float16"},
    "differences": {"uplink": ["float16", "delta", "deflate"], "downlink": ["delta"], "rounds": 2},
}
FAULTS = ({"dropout": 0.4}, {"straggle": 0.4}, {"crash": 0.4}, {"nan": 0.4}, {"dropout": 0.1, "straggle": 0.1, "crash": 0.1})


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", LOCKSTEP)
def test_runs_under_every_setting(name: str, setting: str) -> None:
    experiment = peers(name, clients=4, **SETTINGS[setting])
    history, found = memories(experiment)
    asked = 2 if setting == "some of the peers" else 4
    assert [(row["clients_ok"], row["clients_failed"]) for row in history.metrics[1:]] == [(asked, 0)] * experiment.rounds
    assert all(0 < row["loss"] < 30 for row in history.metrics[1:])
    assert all(bool(tensor.isfinite().all()) for memory in found.values() for tensor in memory.under("net/").values())


@pytest.mark.parametrize("faults", FAULTS, ids=str)
@pytest.mark.parametrize("name", LOCKSTEP)
def test_faults_lose_clients_and_no_round(name: str, faults: dict[str, float]) -> None:
    """The odds are such that in five rounds of four somebody fails, and somebody does not."""
    history = simulate(peers(name, clients=4, rounds=5, faults=faults, nets=TINY))
    rows = history.metrics[1:]
    assert len(rows) == 5
    assert 0 < sum(row["clients_ok"] for row in rows) < 20
    assert all(row["clients_ok"] + row["clients_late"] + row["clients_failed"] == 4 for row in rows)
    assert all(0 < row["loss"] < 30 for row in rows if row["clients_ok"])


def test_only_labelled_samples_are_batches() -> None:
    experiment = peers("dml", data={"labelled": 0.5})
    schedule = plan(node_of(experiment, 1))
    assert [len(draw.positions) for draw in schedule.draws] == [16, 4]  # 20 of 40
    assert all(int(schedule.batch(number).labels.min()) >= 0 for number in range(2))
    assert simulate(experiment).metrics[1]["clients_ok"] == 3


def test_uploads_of_peers_make_sense_in_their_own_round_only() -> None:
    for name in LOCKSTEP:
        with pytest.raises(InputError, match="late_rounds"):
            peers(name, late_rounds=1)


def test_other_partitions_are_refused_with_the_cure() -> None:
    for name in LOCKSTEP:
        with pytest.raises(InputError, match=r'set data\.partition = "shared"'):
            peers(name, data={"partition": "iid"})
