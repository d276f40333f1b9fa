"""DOSFL: what is learned goes through the steps of a net, and the server takes just these steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fedkd.strategies.dosfl import (
    DOSFL,
    LABELS,
    SAMPLES,
    SPACES,
    STEPS,
    Recipe,
    replayed,
    start_net,
    stepped,
    steps_taken,
    trained_weights,
)
from public_runs import client_of, one_round, server_of, tiny
from torch import Tensor, nn

from fedkd import Experiment, InputError, Knowledge, Notice, simulate
from fedkd.experiment.protection import check_protected
from fedkd.knowledge.attacks import ATTACKS
from fedkd.methods import one_shot
from fedkd.testing.kinds_of_samples import texts, vectors

SMALL = {"steps": 2, "batch_size": 3}
#: Numbers of a sample of digits, and classes.
NUMBERS, CLASSES = 64, 10


def small(**changes: Any) -> Experiment:
    strategy = {"name": "dosfl", **SMALL, **changes.pop("strategy", {})}
    data = {"public": 0, **changes.pop("data", {})}
    return tiny(strategy, **{"train": {"epochs": 2, "batch_size": 16}, "data": data, **changes})


def made(seed: int = 0, *, size: float = 0.1, steps: int = 2) -> dict[str, Tensor]:
    """What a client could have sent."""
    rng = torch.Generator().manual_seed(seed)
    recipe = Recipe(torch.randn(steps, 3, 1, 8, 8, generator=rng), torch.randn(steps, 3, CLASSES, generator=rng), size)
    return recipe.told()


def upload(recipe: dict[str, Tensor]) -> Knowledge:
    return Knowledge(recipe, SPACES, weight=10)


@pytest.mark.recomputed("dosfl", by="hand")
def test_a_step_of_a_linear_net_is_that_of_the_formula() -> None:
    net = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        net.weight.zero_()
    recipe = {SAMPLES: torch.tensor([[[1.0, 2.0]]]), LABELS: torch.tensor([[[1.0, 0.0]]]), STEPS: torch.tensor([0.5])}
    # softmax(0) - y = (-1/2, 1/2), the gradient is its outer product with (1, 2), and the step half of it
    torch.testing.assert_close(replayed(net, [recipe])["weight"], torch.tensor([[0.25, 0.5], [-0.25, -0.5]]))
    torch.testing.assert_close(net.weight.detach(), torch.zeros(2, 2))


@pytest.mark.recomputed("dosfl", by="formula")
def test_the_gradient_through_all_steps_is_that_of_finite_differences() -> None:
    rng = torch.Generator().manual_seed(0)
    net = nn.Linear(3, 2).double()
    real, classes = torch.randn(5, 3, generator=rng).double(), torch.tensor([0, 1, 1, 0, 1])
    recipe = Recipe(torch.randn(3, 2, 3, generator=rng).double(), torch.randn(3, 2, 2, generator=rng).double(), 0.3)

    def loss(samples: Tensor, labels: Tensor, raw_steps: Tensor) -> Tensor:
        weights: dict[str, Tensor] = trained_weights(net)
        for x, y, size in zip(samples, labels, F.softplus(raw_steps), strict=True):
            logits = x @ weights["weight"].T + weights["bias"]
            weights = stepped(weights, -(y.softmax(1) * logits.log_softmax(1)).sum(1).mean(), size)
        return F.cross_entropy(real @ weights["weight"].T + weights["bias"], classes)

    learned = (recipe.samples, recipe.labels, recipe.raw_steps)
    assert torch.autograd.gradcheck(loss, learned)
    wanted = torch.autograd.grad(loss(*learned), learned)
    after = recipe.unrolled(net, trained_weights(net), [True] * 3)
    found = torch.autograd.grad(F.cross_entropy(torch.func.functional_call(net, dict(after), (real,)), classes), learned)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_without_a_step_the_net_is_the_start() -> None:
    net = start_net(server_of(small()))
    start = {name: held.detach() for name, held in net.named_parameters()}
    for after in (replayed(net, []), replayed(net, [{STEPS: torch.zeros(0)}]), replayed(net, [made(size=1e-30)])):
        assert all(torch.equal(after[name], held) for name, held in start.items())
    recipe = Recipe(torch.randn(2, 3, 1, 8, 8), torch.randn(2, 3, CLASSES), 0.1)
    assert recipe.unrolled(net, start, [False, False]) is start


def test_the_server_takes_the_steps_that_a_client_alone_learned() -> None:
    net, recipe = start_net(server_of(small())), Recipe(torch.randn(2, 3, 1, 8, 8), torch.randn(2, 3, CLASSES), 0.2)
    learned = recipe.unrolled(net, trained_weights(net), [True, True])
    for name, held in replayed(net, [recipe.told()]).items():
        torch.testing.assert_close(held, learned[name].detach())


def test_steps_of_clients_alternate_and_together_go_as_far_as_those_of_one() -> None:
    net = start_net(server_of(small()))
    one, other = made(0), made(1)
    halves = [{**each, STEPS: each[STEPS] / 2} for each in (one, other)]
    row = {name: torch.stack([halves[0][name][0], halves[1][name][0], halves[0][name][1], halves[1][name][1]]) for name in one}
    both, in_turn = replayed(net, [one, other]), replayed(net, [row])
    assert all(torch.equal(both[name], in_turn[name]) for name in both)
    short = made(0, size=1e-3)  # so short that the loss is flat along it
    twice, alone = replayed(net, [short, short]), replayed(net, [short])
    moved = max(float((alone[name] - held.detach()).abs().max()) for name, held in net.named_parameters())
    assert moved > 0 and max(float((twice[name] - alone[name]).abs().max()) for name in twice) < 0.05 * moved


def test_a_client_learns_samples_labels_and_step_sizes_by_which_a_net_knows_its_own() -> None:
    experiment = small(strategy={"steps": 3, "batch_size": 10}, train={"epochs": 60, "batch_size": 16})
    client = client_of(experiment)
    sent = DOSFL(steps=3, batch_size=10).client_update(client, Knowledge())
    net, data = start_net(client), client.train.labelled()
    before = one_shot.measured(net, data)["loss"]
    assert (sent.tensors[STEPS] > 0).all() and sent.tensors[STEPS].unique().numel() == 3
    torch.testing.assert_close(sent.tensors[LABELS].sum(2), torch.ones(3, 10))
    with torch.no_grad():
        for name, held in replayed(net, [dict(sent.tensors)]).items():
            net.get_parameter(name).copy_(held)
    assert one_shot.measured(net, data)["loss"] < 0.5 * before


def test_one_step_at_least_is_taken() -> None:
    rng = torch.Generator().manual_seed(0)
    drawn = [steps_taken(3, 0.9, rng) for _ in range(200)]
    assert min(map(sum, drawn)) == 1 and steps_taken(3, 0.0, rng) == [True] * 3
    assert sum(map(sum, drawn)) < 300 and {each.index(True) for each in drawn} == {0, 1, 2}


@pytest.mark.parametrize("term", [{"start_noise": 0.5}, {"left_out": 0.5}, {"certainty": 9.0}, {"step_size": 0.9}])
def test_each_setting_changes_what_is_learned(term: dict[str, float]) -> None:
    plain = DOSFL(**SMALL).client_update(client_of(small()), Knowledge())
    other = DOSFL(**SMALL, **term).client_update(client_of(small(strategy=term)), Knowledge())
    assert not torch.allclose(plain.tensors[SAMPLES], other.tensors[SAMPLES])


def test_made_samples_travel_once_and_the_net_from_the_second_round_on() -> None:
    history = simulate(small(rounds=3))
    size = sum(held.numel() for held in start_net(server_of(small())).state_dict().values())
    upload = 4 * 2 * (3 * (NUMBERS + CLASSES) + 1)
    assert [row["bytes_up"] for row in history.metrics[1:]] == [2 * upload, 0, 0]
    assert [row["bytes_down"] for row in history.metrics[1:]] == [0, 2 * 4 * size, 2 * 4 * size]
    assert all(row["clients_ok"] == 2 and row["loss"] > 0 for row in history.metrics[1:])


def test_what_was_lost_is_sent_again_as_it_was_and_then_no_more() -> None:
    experiment = small()
    server, client, strategy = server_of(experiment), client_of(experiment), DOSFL(**SMALL)
    first = strategy.client_update(client, Knowledge())
    told = strategy.server_update(server, {1: upload(made())})  # client 0's was lost
    again = strategy.client_update(client, told[0])
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in first.tensors.items())
    assert again.metrics["loss"] > 0 and strategy.upload_schema(server, 0).keys() == first.tensors.keys()
    told = strategy.server_update(server, {0: again})
    assert not strategy.client_update(client, told[0]).tensors and not strategy.upload_schema(server, 0)
    both = replayed(start_net(server), [dict(again.tensors), made()])  # by id, whoever came first
    net = one_shot.student_net(server)
    assert all(torch.equal(held.detach(), both[name]) for name, held in net.named_parameters())


def test_who_alone_leads_to_no_numbers_is_left_out_and_where_all_do_the_net_stays() -> None:
    server, wild = server_of(small()), {**made(1), SAMPLES: made(1)[SAMPLES] * 1e6, STEPS: made(1)[STEPS] * 1e7}
    DOSFL(**SMALL).server_update(server, {0: upload(made()), 1: upload(wild)})
    alone = replayed(start_net(server), [made()])
    assert all(torch.equal(held.detach(), alone[n]) for n, held in one_shot.student_net(server).named_parameters())
    server = server_of(small())
    DOSFL(**SMALL).server_update(server, {1: upload(wild)})
    start = dict(start_net(server).named_parameters())
    assert all(torch.equal(held, start[name]) for name, held in one_shot.student_net(server).named_parameters())


def test_codecs_and_attacks_take_samples_as_real_numbers() -> None:
    plain, coded = simulate(small()), simulate(small(uplink=["int8"]))
    assert 0 < coded.metrics[1]["coded_bytes_up"] < 0.5 * plain.metrics[1]["bytes_up"]
    assert coded.metrics[1]["clients_ok"] == 2
    honest, rng = upload(made()), torch.Generator().manual_seed(0)
    for name in ("sign_flip", "noise", "free_rider"):
        hostile = ATTACKS[name].upload(honest, Knowledge(), scale=1.0, rng=rng)
        assert not torch.equal(hostile.tensors[SAMPLES], honest.tensors[SAMPLES])
        assert name == "noise" or not torch.equal(hostile.tensors[STEPS], honest.tensors[STEPS])  # equal ones have no spread


def test_under_privacy_made_samples_are_refused() -> None:
    with pytest.raises(InputError, match="dosfl uploads samples, which no mechanism is defined for"):
        check_protected("dosfl", [DOSFL().upload_schema(server_of(small()), 0)], partition="iid")
    with pytest.raises(InputError, match="uploads samples"):
        simulate(small(privacy={"noise_multiplier": 1.0}))


class Counted(torch.autograd.Function):
    """The identity, whose gradient cannot be differentiated."""

    @staticmethod
    def forward(context: Any, inputs: Tensor) -> Tensor:
        return inputs.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return gradient.clone()


class Once(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return Counted.apply(inputs)


def differentiable_once(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(NUMBERS, classes), Once())


class Attentive(nn.Module):
    """Rows of an image look at each other, by torch's fused attention; batch statistics and dropout in between."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.norm, self.drop, self.last = nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(NUMBERS, classes)

    def forward(self, images: Tensor) -> Tensor:
        rows = self.drop(self.norm(images.squeeze(1)))
        return self.last(F.scaled_dot_product_attention(rows, rows, rows).flatten(1))


def attentive(shape: tuple[int, ...], classes: int) -> nn.Module:
    return Attentive(classes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"nets": "cnn1d", "net_options": {}, "data": {"source": texts, "train_limit": 0}},
            "dosfl makes samples of real numbers, and data.source 'texts' holds samples of kind 'tokens'",
        ),
        ({"data": {"labelled": 0.0}}, "DOSFL needs labels"),
        ({"nets": {"cnn": 0.5, "mlp": 0.5}}, "DOSFL needs the same net at all clients"),
        ({"nets": differentiable_once, "net_options": {}}, "cannot learn through its own steps"),
        ({"strategy": {"steps": 0}}, "steps"),
        ({"strategy": {"left_out": 1.0}}, "left_out"),
    ],
)
def test_what_it_cannot_work_with_is_refused_in_one_line(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason) as refused:
        simulate(small(**changes))
    assert "\n" not in str(refused.value)


def test_tables_and_nets_with_attention_batch_statistics_and_dropout_learn_too() -> None:
    table = {"net_options": {"mlp": {"hidden": [8]}}, "data": {"source": vectors, "train_limit": 0}}
    for changes in (table, {"nets": attentive, "net_options": {}}):
        assert simulate(small(**changes)).metrics[1]["clients_ok"] == 2


def test_together_its_trainings_are_carried_out_one_by_one_which_is_said() -> None:
    experiment = small(data={"clients": 4})
    loop = simulate(experiment, "in-process")
    with pytest.warns(Notice, match="one by one"):
        together = simulate(experiment, "together")
    assert together.metrics[1]["accuracy"] == loop.metrics[1]["accuracy"]


@pytest.mark.slow
def test_the_net_beats_fedavgs_first_round_and_clients_alone() -> None:
    """5 clients of digits with uneven labels, seed 0: FedAvg's one round has 71.3 %, clients alone 64.5 %."""
    settings = {"nets": "mlp", "net_options": {"mlp": {"hidden": [64]}}}
    accuracy = one_round("dosfl", **settings)
    assert accuracy > one_round("fedavg", **settings) + 0.05
    assert accuracy > one_round("local", **settings) + 0.1
