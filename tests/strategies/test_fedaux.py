"""FedAUX: how sure each client is of each public sample, what the noise covers, and what is distilled."""

from __future__ import annotations

import math
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from fedkd.strategies.fedaux import FedAUX, fit_certainty, in_unit_ball, noise_width, scores_of, sensitivity, weights_of
from fedkd.strategies.feddf import FedDF
from public_runs import client_of, server_of, tiny
from torch import Tensor

from fedkd import Experiment, InputError, Knowledge, Server, predict, simulate
from fedkd.aggregate import mean, weighted_mean
from fedkd.losses import kd_loss
from fedkd.methods.architecture_groups import group_net
from fedkd.methods.public_distillation import predict_public
from fedkd.strategies import fedaux, feddf

MIXED: dict[str, Any] = {
    "nets": {"cnn": 0.5, "mlp": 0.5},
    "net_options": {"mlp": {"hidden": [8]}, "cnn": {"channels": [2], "hidden": 8}},
}


def drawn(server: Server, client: int, scale: float = 1.0) -> Knowledge:
    """Some weights of the client's architecture, other ones for each client."""
    net = server.net(f"drawn {client}", architecture=server.architecture_of(client), init="own")
    return Knowledge.of("weights", {name: scale * tensor.clone() for name, tensor in net.state_dict().items()})


def scored(knowledge: Knowledge, scores: Tensor) -> Knowledge:
    return knowledge.with_tensors("embedding", {"scores": scores.logit().float()})


# ---- scores


@pytest.mark.recomputed("fedaux", by="hand")
def test_one_sample_against_another_by_hand() -> None:
    """Rows 1 and -1 in one dimension: the mean loss is log(1 + exp(-w)), so lambda w = 1 / (1 + exp(w)): w = 1 at 0.2689."""
    found = fit_certainty(torch.ones(1, 1), -torch.ones(1, 1), 1 / (1 + math.e))
    torch.testing.assert_close(found, torch.ones(1, dtype=torch.float64), atol=1e-7, rtol=0)


@pytest.mark.recomputed("fedaux", by="formula")
def test_the_fit_is_the_minimum_of_what_the_docstring_says() -> None:
    generator = torch.Generator().manual_seed(0)
    own, public = (in_unit_ball(torch.randn(n, 5, generator=generator) + shift, 3.0) for n, shift in ((40, 0.5), (25, 0.0)))
    found = fit_certainty(own, public, 0.02)

    def objective(fit: Tensor) -> Tensor:
        return F.softplus(torch.cat([-(own @ fit), public @ fit])).mean() + 0.01 * fit.square().sum()

    gradient = torch.autograd.functional.jacobian(objective, found)
    assert gradient.abs().max() < 1e-7  # type: ignore[union-attr]
    assert (own @ found).mean() > (public @ found).mean()


def moved(regularization: float) -> float:
    """How far the fit of 500 and 500 samples moves when one of a client's becomes its opposite."""
    own, public = torch.randn(2, 500, 8, generator=torch.Generator().manual_seed(0)).unbind()
    own, public = in_unit_ball(own + 2, 1.0), in_unit_ball(public, 1.0)  # easily told apart but for the one that changes
    changed = own.clone()
    changed[0, :-1] *= -1
    before, after = (fit_certainty(rows, public, regularization) for rows in (own, changed))
    return float(torch.linalg.vector_norm(before - after))


@pytest.mark.parametrize("regularization", [0.01, 0.1, 1.0])
def test_a_sample_that_changes_moves_the_fit_by_less_than_the_noise_assumes(regularization: float) -> None:
    """And by more in the official code, whose solver shrinks by lambda / n of what is said here."""
    assert sensitivity(1000, regularization) == pytest.approx(2 / (1000 * regularization))
    assert 0 < moved(regularization) <= sensitivity(1000, regularization)
    assert moved(regularization / 1000) > sensitivity(1000, regularization)


def test_a_clients_longest_feature_does_not_change_how_the_others_are_scaled() -> None:
    ours, theirs = torch.tensor([[1.0, 0.0], [1e6, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert torch.equal(in_unit_ball(ours, 2.0)[0], in_unit_ball(theirs, 2.0)[0])
    assert float(torch.linalg.vector_norm(in_unit_ball(ours, 2.0), dim=1).max()) <= 1 + 1e-12
    assert in_unit_ball(torch.zeros(2, 3), 0.0).isfinite().all()


def test_scores_are_how_likely_the_fit_finds_each_public_sample_and_never_zero() -> None:
    strategy = FedAUX()
    experiment = tiny(strategy)
    server, client = server_of(experiment), client_of(experiment)
    sent = strategy.first_broadcast(server)[0]
    scores = strategy.client_update(client, sent).tensors["scores"]
    net = server.net("looked at", weights=weights_of(sent)).eval()
    apart, others = strategy._public(server)
    assert (len(apart), len(others)) == (6, 24)
    own, public, asked = (predict(net.features, data.samples, data.work) for data in (client.train, apart, others))
    longest = float(public.norm(dim=1).max())
    fit = fit_certainty(in_unit_ball(own, longest), in_unit_ball(public, longest), 0.01)
    torch.testing.assert_close(scores, (in_unit_ball(asked, longest) @ fit).float(), atol=1e-3, rtol=1e-3)
    server.memory["scores/0"], server.memory["scores/1"] = scores, torch.full((24,), -1e6)
    made = scores_of(server)
    torch.testing.assert_close(made[0], scores.sigmoid())
    assert made[1].tolist() == pytest.approx([1e-8] * 24)


@pytest.mark.recomputed("fedaux", by="formula")
def test_noise_is_as_wide_as_the_sensitivity_asks() -> None:
    """With a fit of zeros and features that name one coordinate each, what is left is the noise."""
    strategy = FedAUX(epsilon=0.5, delta=1e-3)
    experiment = tiny(strategy, train={"epochs": 1})
    sent = strategy.first_broadcast(server_of(experiment))[0]
    seen = []
    for seed in range(60):
        client = client_of(tiny(strategy, seed=seed))
        with (
            patch.object(fedaux, "fit_certainty", lambda own, public, regularization: torch.zeros(own.shape[1]).double()),
            patch.object(fedaux, "in_unit_ball", lambda features, longest: torch.eye(len(features), 9).double() / 100),
        ):
            strategy._score(client, weights_of(sent))
        seen.append(100 * client.memory.tensor("scores")[:9])
    n = len(client.train) + 6
    expected = 2 / (n * 0.01) * math.sqrt(2 * math.log(1.25 / 1e-3)) / 0.5
    assert expected == pytest.approx(sensitivity(n, 0.01) * noise_width(0.5, 1e-3))
    assert float(torch.cat(seen).std()) == pytest.approx(expected, rel=0.1)


def test_a_client_that_is_asked_twice_sends_the_same_scores_though_they_are_noisy() -> None:
    strategy = FedAUX(epsilon=1.0)
    experiment = tiny(strategy)
    server, client = server_of(experiment), client_of(experiment)
    sent = strategy.first_broadcast(server)[0]
    first = strategy.client_update(client, sent).tensors["scores"].clone()
    other = Knowledge.of("weights", {n: 2 * t for n, t in weights_of(sent).items()}, header=dict(sent.header))
    client.round = 2
    assert torch.equal(strategy.client_update(client, other).tensors["scores"], first)


def test_who_first_takes_part_later_scores_with_the_same_net_as_the_others() -> None:
    strategy = FedAUX()
    experiment = tiny(strategy)
    server, early, late = server_of(experiment), client_of(experiment, 1), client_of(experiment, 1)
    sent = strategy.first_broadcast(server)
    held = {client: knowledge.copy() for client, knowledge in sent.items()}
    told = strategy.server_update(server, {0: strategy.client_update(client_of(experiment), held[0])})
    assert sorted(scores_of(server)) == [0]
    assert "scores" in strategy.client_update(early, held[1]).tensors
    late.round = 2
    assert torch.equal(
        strategy.client_update(late, told[1]).tensors["scores"], strategy.client_update(early, held[1]).tensors["scores"]
    )
    assert not any(name.startswith("scorer/") for name in told[0].tensors)
    assert "scores" not in strategy.client_update(client_of(experiment), told[0]).tensors


# ---- distillation


def taught(strategy: FedAUX, server: Server, uploads: dict[int, Knowledge]) -> Tensor:
    """What the students are to learn."""
    seen = list[Tensor]()

    def look(net: Any, subset: Any, targets: Tensor, *rest: Any, **more: Any) -> dict[str, float]:
        seen.append(targets)
        return {"distillation": 1.0}

    with patch.object(fedaux, "distil", look):
        strategy.server_update(server, uploads)
    return seen[0]


@pytest.mark.recomputed("fedaux", by="formula")
def test_targets_are_the_clients_logits_weighted_sample_by_sample() -> None:
    strategy = FedAUX()
    server = server_of(tiny(strategy))
    nets = {client: drawn(server, client) for client in range(2)}
    said = [predict_public(server.net("any", weights=n.tensors), strategy._public(server)[1]) for n in nets.values()]
    sure = torch.rand(2, 24, generator=torch.Generator().manual_seed(0))
    found = taught(strategy, server, {client: scored(net, sure[client]) for client, net in nets.items()})
    by_hand = (sure[0][:, None] * said[0] + sure[1][:, None] * said[1]) / (sure[0] + sure[1])[:, None]
    torch.testing.assert_close(found, by_hand)


def test_with_equal_scores_it_teaches_what_feddf_does() -> None:
    strategy = FedAUX()
    server, other = server_of(tiny(strategy)), server_of(tiny(FedDF(), data={"validation": 10}))
    nets = {client: drawn(server, client) for client in range(2)}
    found = taught(strategy, server, {client: scored(net, torch.full((24,), 0.3)) for client, net in nets.items()})
    seen = list[Tensor]()

    def look(student: Any, public: Any, targets: Tensor, **rest: Any) -> float:
        seen.append(targets)
        return 0.0

    subset = strategy._public(server)[1]
    with (
        patch.object(feddf, "distil_to_best", look),
        patch.object(feddf, "predict_public", lambda net, _: predict_public(net, subset)),
    ):
        FedDF().server_update(other, nets)
    assert torch.equal(found, seen[0])


@pytest.mark.recomputed("fedaux", by="formula")
def test_the_distillation_is_by_hand_at_the_start_and_moves_the_mean() -> None:
    strategy = FedAUX(epochs=1, batch_size=24, lr=1e-12)
    server = server_of(tiny(strategy))
    sure = torch.rand(2, 24, generator=torch.Generator().manual_seed(0))
    uploads = {client: scored(drawn(server, client, scale=3.0), sure[client]) for client in range(2)}
    targets = taught(strategy, server, uploads)
    middle = weighted_mean({k: u.in_space("weights") for k, u in uploads.items()}).tensors
    sent = strategy.server_update(server, uploads)
    for name, tensor in middle.items():
        torch.testing.assert_close(sent[0].tensors[name], tensor)
    before = predict_public(group_net(server, "mlp"), strategy._public(server)[1])
    expected = float(kd_loss(before, targets, temperature=1.0))
    assert server.reported["server_distillation"] == pytest.approx(expected, rel=1e-4)
    FedAUX(epochs=20, lr=0.01).server_update(server, uploads)
    after = predict_public(group_net(server, "mlp"), strategy._public(server)[1])
    assert kd_loss(after, targets, temperature=1.0) < 0.7 * expected


def test_only_nets_whose_scores_have_come_and_whose_logits_are_finite_teach() -> None:
    strategy = FedAUX()
    server = server_of(tiny(strategy, net_options={"mlp": {"hidden": [8] * 8}}))
    good, unscored, bad = drawn(server, 0), drawn(server, 1), drawn(server, 1, scale=1e6)
    only = predict_public(server.net("any", weights=good.tensors), strategy._public(server)[1])
    uploads = {0: scored(good, torch.full((24,), 0.1)), 1: unscored}
    torch.testing.assert_close(taught(strategy, server, uploads), only)
    quiet = FedAUX(lr=1e-12)
    sent = quiet.server_update(server, uploads)
    for name, tensor in sent[0].tensors.items():  # the mean is of both
        torch.testing.assert_close(tensor, (good.tensors[name] + unscored.tensors[name]) / 2)
    sent = quiet.server_update(server, {0: scored(good, torch.full((24,), 0.1)), 1: scored(bad, torch.full((24,), 0.9))})
    for name, tensor in sent[0].tensors.items():
        torch.testing.assert_close(tensor, good.tensors[name])
    quiet.server_update(server, {1: scored(bad, torch.full((24,), 0.9))})  # nobody teaches


# ---- runs


def test_public_samples_set_apart_are_not_distilled_and_all_nodes_agree_on_them() -> None:
    strategy = FedAUX(negatives=0.5)
    experiment = tiny(strategy)
    apart, others = strategy._public(server_of(experiment))
    ids, rest = set(apart.samples.indices.tolist()), set(others.samples.indices.tolist())
    assert not ids & rest and len(ids) == len(rest) == 15
    client = client_of(experiment)
    client.round = 3
    assert [part.samples.indices.tolist() for part in strategy._public(client)] == [
        apart.samples.indices.tolist(),
        others.samples.indices.tolist(),
    ]


def test_pretraining_moves_the_encoder_and_not_the_last_layer() -> None:
    nets = []
    for strategy in (FedAUX(pretraining_epochs=0), FedAUX(pretraining_epochs=2)):
        server = server_of(tiny(strategy))
        nets.append(strategy.first_broadcast(server)[0].copy().tensors)
    same = {name for name in nets[0] if torch.equal(nets[0][name], nets[1][name])}
    assert same == {"heads.classifier.weight", "heads.classifier.bias"}


def test_scores_travel_once_and_the_net_that_scores_goes_to_newcomers() -> None:
    experiment = tiny("fedaux", rounds=3, **MIXED)
    server = server_of(experiment)
    sizes = [sum(t.numel() for t in group_net(server, server.architecture_of(c)).state_dict().values()) for c in range(2)]
    rows = simulate(experiment).metrics
    assert [row["bytes_up"] for row in rows[1:]] == [4 * sum(sizes) + 2 * 4 * 24, *[4 * sum(sizes)] * 2]
    assert [row["bytes_down"] for row in rows[1:]] == [4 * sum(sizes)] * 3
    one = tiny("fedaux", rounds=6, participation=0.5)
    size = sum(t.numel() for t in group_net(server_of(one), "mlp").state_dict().values())
    rows, known = simulate(one).metrics, False
    ups, downs = ([row[key] for row in rows[1:]] for key in ("bytes_up", "bytes_down"))
    assert ups[0] == 4 * size + 4 * 24 and downs[0] == 4 * size
    for up, down in zip(ups[1:], downs[1:], strict=True):
        new = up > 4 * size
        assert (up, down) == ((4 * size + 4 * 24, 8 * size) if new else (4 * size, 4 * size))
        assert not (new and known)
        known = known or new
    assert known


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data": {"public": 0}}, "needs a public set"),
        ({"data": {"public": 2}}, "2 are too few, set it to 3 at least"),
        ({"strategy": FedAUX(epsilon=1.0), "privacy": {"noise_multiplier": 1.0, "clip": 1.0}}, "weights"),
    ],
)
def test_bad_input_is_refused_in_one_line(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason) as refused:
        simulate(tiny(**{"strategy": "fedaux", **changes}))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("field", [{"epsilon": 1.5}, {"delta": 0.0}, {"negatives": 1.0}, {"regularization": 0.0}])
def test_numbers_that_no_formula_takes_are_refused(field: dict[str, float]) -> None:
    with pytest.raises(InputError):
        tiny({"name": "fedaux", **field})


@pytest.mark.slow
def test_where_clients_know_few_classes_scores_beat_equal_ones_and_averaging() -> None:
    """Seen with seeds 0-2: 0.719, 0.811, 0.624; equal scores 0.618, 0.618, 0.582; FedAvg 0.574, 0.616, 0.666."""
    data = {"clients": 5, "alpha": 0.1, "self_balancing": True, "min_partition_size": 5, "public": 400, "train_limit": 650}
    how: dict[str, Any] = {
        "rounds": 3,
        "evaluate_every": 3,
        "nets": "mlp",
        "train": {"epochs": 5, "batch_size": 16, "lr": 0.05},
    }

    def accuracy(strategy: str) -> float:
        found: float = simulate(Experiment(strategy=strategy, data=data, **how)).metrics[-1]["accuracy"]
        return found

    ours, averaged = accuracy("fedaux"), accuracy("fedavg")
    with patch.object(fedaux, "mean", lambda said, sure: mean(said)):
        equal = accuracy("fedaux")
    assert ours > max(averaged, equal) + 0.03
