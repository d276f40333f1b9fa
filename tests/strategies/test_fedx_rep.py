"""FedX-Rep: encoders of any architecture meet in the embeddings of public images; weights stay where they are."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from anchor_runs import D, anchors, cross_relations, first_step, nt_xent, unit
from fedkd.strategies.fedx_rep import FedXRep
from public_runs import client_of, server_of, tiny
from torch import nn

from fedkd import Client, Experiment, InputError, Knowledge, Node, Server, Strategy, predict, simulate
from fedkd.methods.encoders.own_encoders import own_net
from fedkd.nets import HEADS

MIXED = {"nets": {"cnn": 0.5, "mlp": 0.5}, "net_options": {"mlp": {"hidden": [8]}, "cnn": {"channels": [4], "hidden": 12}}}


def rows_by_id(client: Client, ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Each id's row of a table in the shared order, one at a time."""
    order = client.public_subset(round=0).samples.indices.tolist()
    return torch.stack([table[order.index(int(id))] for id in ids])


@pytest.mark.recomputed("fedx_rep", by="formula")
def test_the_terms_are_those_of_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = FedXRep(temperature=0.5, global_contrastive_weight=2.0, global_relational_weight=3.0)
    client, heard = client_of(tiny(strategy, train={"batch_size": 8})), unit(1, 30)
    parts, batch = first_step(client, anchors(heard), strategy, monkeypatch)
    net = own_net(client, strategy.build_base(), "prediction").eval()
    subset = client.public_subset(round=0)
    shown, compared = next(subset.stream("public")), next(subset.stream("public anchors"))
    views = batch.view(1), batch.view(2), next(client.train.stream("anchors")).view(1), shown.view(1), shown.view(2)
    with torch.no_grad():
        z1, z2, zr, u1, u2 = (net.head("projection", net.features(view)) for view in views)
        p1, p2 = net.head("prediction", u1), net.head("prediction", u2)
    own, others = rows_by_id(client, shown.ids, heard), rows_by_id(client, compared.ids, heard)
    expected = {
        "local_contrastive": nt_xent(z1, z2, 0.5),
        "local_relational": cross_relations(z1, z2, zr, 0.5),
        "global_contrastive": 2 * nt_xent(p1, own, 0.5),
        "global_relational": 3 * cross_relations(p1, p2, others, 0.5),
    }
    assert parts == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_before_there_are_anchors_and_without_weights_a_client_trains_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = FedXRep(global_contrastive_weight=0, global_relational_weight=0)
    first, _ = first_step(client_of(tiny(FedXRep())), Knowledge(), FedXRep(), monkeypatch)
    deaf, _ = first_step(client_of(tiny(alone)), anchors(unit(1, 30)), alone, monkeypatch)
    assert list(first) == ["local_contrastive", "local_relational"]
    assert deaf == first


def test_one_global_term_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = FedXRep(global_relational_weight=0)
    parts, _ = first_step(client_of(tiny(strategy)), anchors(unit(1, 30)), strategy, monkeypatch)
    assert parts["global_relational"] == 0 < parts["global_contrastive"]


@pytest.mark.recomputed("fedx_rep", by="hand")
def test_the_answer_is_the_direction_of_the_mean_whatever_the_weights_of_the_clients() -> None:
    """Rows (1, 0) and (0, 1) make (1, 1) / sqrt 2; opposite rows cancel and say nothing; 1.005 is as good as 1."""
    strategy, rows = FedXRep(), torch.zeros(2, 3, 4)
    rows[0, :, 0], rows[1, 0, 1], rows[1, 1, 0], rows[1, 2, 0] = 1.0, 1.0, -1.0, 1.005
    uploads = {0: anchors(rows[0], weight=1), 1: anchors(rows[1], weight=99)}
    answer = strategy.server_update(server_of(tiny(strategy)), uploads).tensors["anchors"]
    expected = torch.zeros(3, 4)
    expected[0, :2], expected[2, 0] = 0.5**0.5, 1.0
    torch.testing.assert_close(answer, expected)


def test_a_client_says_the_unit_projections_of_its_trained_net_in_the_order_all_share() -> None:
    strategy = FedXRep(public_samples=20)
    client = client_of(tiny(strategy))
    upload = strategy.client_update(client, Knowledge())
    net, subset = own_net(client, strategy.build_base(), "prediction").eval(), client.public_subset(20, round=0)
    rows = predict(lambda images: net.head("projection", net.features(images)), subset.samples, client.work())
    torch.testing.assert_close(upload.tensors["anchors"], rows / rows.norm(dim=1, keepdim=True))
    assert upload.weight == len(client.train)


@pytest.mark.parametrize(("change", "reason"), [(0.0, "a row of length 0, not 1"), (1.5, "a row of length 1.5, not 1")])
def test_a_row_that_is_not_of_length_one_costs_the_client_its_round(change: float, reason: str) -> None:
    rows = unit(0, 30)
    FedXRep().check_upload(server_of(tiny(FedXRep())), anchors(rows.half().float()))
    rows[7] *= change
    with pytest.raises(ValueError, match=reason):
        FedXRep().check_upload(server_of(tiny(FedXRep())), anchors(rows))


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["float16", "int8"])
def test_coarse_codecs_get_through(codec: str) -> None:
    row = simulate(tiny("fedx_rep", uplink=(codec,), downlink=(codec,), rounds=2)).metrics[2]
    assert (row["clients_ok"], row["clients_failed"]) == (2, 0)


@pytest.mark.slow
def test_a_poisoner_leaves_the_others_anchors_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    update, answers = FedXRep.client_update, []

    def hostile(self: FedXRep, client: Client, broadcast: Knowledge) -> Knowledge:
        upload = update(self, client, broadcast)
        return anchors(1e5 * upload.tensors["anchors"]) if client.id == 1 else upload

    def watched(self: FedXRep, server: Server, uploads: Any) -> Knowledge:
        answers.append(list(uploads))
        return server_update(self, server, uploads)

    server_update = FedXRep.server_update
    monkeypatch.setattr(FedXRep, "client_update", hostile)
    monkeypatch.setattr(FedXRep, "server_update", watched)
    row = simulate(tiny("fedx_rep")).metrics[1]
    assert answers == [[0]]
    assert "not 1" in row["failures"]["1"]


@pytest.mark.slow
def test_only_rows_of_public_samples_travel_and_nets_may_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """4 * 256 P bytes each way for each client and round, none down before there is anything to say."""
    shapes: set[tuple[str, tuple[int, ...], torch.dtype]] = set()

    def watch(cls: type[Strategy], name: str, at: int) -> None:
        method = getattr(cls, name)

        def watched(*arguments: Any) -> Knowledge:
            answer: Knowledge = method(*arguments)
            for message in (answer, arguments[at]) if at else (answer,):
                shapes.update((key, tuple(t.shape), t.dtype) for key, t in message.tensors.items())
            return answer

        monkeypatch.setattr(cls, name, watched)

    watch(FedXRep, "client_update", 2)
    watch(FedXRep, "server_update", 0)
    history = simulate(tiny({"name": "fedx_rep", "public_samples": 20}, rounds=3, evaluate_every=3, **MIXED))
    table = 4 * D * 20
    assert [row["bytes_up"] for row in history.metrics] == [0, 2 * table, 2 * table, 2 * table]
    assert [row["bytes_down"] for row in history.metrics] == [0, 0, 2 * table, 2 * table]
    assert shapes == {("anchors", (20, D), torch.float32)}
    assert history.metrics[3]["global_contrastive"] > 0
    assert 0 < history.metrics[3]["client_cka"] <= 1


def test_a_clients_encoder_and_its_bases_memory_survive_the_rounds() -> None:
    strategy = FedXRep(base="moco", base_options={"queue": 32})
    experiment = tiny(strategy, train={"batch_size": 8})
    client = client_of(experiment)
    strategy.client_update(client, Knowledge())
    before = {name: t.clone() for name, t in own_net(client, strategy.build_base(), "prediction").state_dict().items()}
    client.flush()
    later = Client(0, experiment, client._functions, client.federation, client.memory, client.device)
    later.round = 2
    net = own_net(later, strategy.build_base(), "prediction")
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    strategy.client_update(later, anchors(unit(3, 30)))
    assert any(not torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert len(later.memory["queue"]) == 32  # type: ignore[arg-type]


def test_the_order_in_which_a_client_holds_the_public_samples_changes_nothing() -> None:
    said = []
    for flipped in (False, True):
        client = client_of(tiny(FedXRep()))
        public = client.federation.public
        if flipped and public is not None:
            turned = dataclasses.replace(public, indices=public.indices.flip(0))
            client.federation = dataclasses.replace(client.federation, public=turned)
        said.append(FedXRep().client_update(client, anchors(unit(1, 30))).tensors["anchors"])
    assert torch.equal(*said)


def test_clients_start_from_encoders_of_their_own() -> None:
    first, second = (own_net(client_of(tiny(FedXRep()), id), FedXRep().build_base()) for id in (0, 1))
    assert not torch.equal(*(next(net.parameters()) for net in (first, second)))


@pytest.mark.slow
def test_a_client_that_was_away_hears_of_the_same_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of four clients a round, so some hear in round 3 what was said in rounds that they missed."""
    heard: dict[int, list[tuple[int, bool]]] = {}
    update = FedXRep.client_update

    def watched(self: FedXRep, client: Client, broadcast: Knowledge) -> Knowledge:
        heard.setdefault(client.round, []).append((client.id, "anchors" in broadcast.tensors))
        return update(self, client, broadcast)

    monkeypatch.setattr(FedXRep, "client_update", watched)
    data = {"clients": 4, "train_limit": 110}
    history = simulate(
        tiny("fedx_rep", data=data, participation=0.5, rounds=3, faults={"straggle": 0.3}, late_rounds=1, evaluate_every=9)
    )
    assert not any(row["clients_failed"] for row in history.metrics)
    assert all(has == (round > 1) for round, clients in heard.items() for _, has in clients)
    newcomers = {id for id, _ in heard[3]} - {id for id, _ in heard[2]}
    assert newcomers
    assert history.metrics[3]["global_contrastive"] > 0


@pytest.mark.parametrize("shape", [(20, D), (30, D // 2)])
def test_anchors_of_another_set_or_width_are_refused_in_one_line(shape: tuple[int, int]) -> None:
    client = client_of(tiny(FedXRep()))
    with pytest.raises(InputError, match=rf"anchors of shape \({shape[0]}, {shape[1]}\) came.*\(30, 256\)") as caught:
        FedXRep().client_update(client, anchors(unit(0, *shape)))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_projections_of_unequal_width_are_refused_before_round_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head whose width follows the encoder's: 12 for the cnn, 8 for the mlp."""
    for name in ("projection", "prediction"):
        monkeypatch.setitem(HEADS, name, lambda in_features, classes: nn.Linear(in_features, in_features))
    options = {"mlp": {"hidden": [9, 8]}, "cnn": {"channels": [3], "hidden": 12}}  # of no other test: nets are used again
    with pytest.raises(InputError, match=r"anchors need projections of one width, these have cnn 12, mlp 8"):
        simulate(tiny("fedx_rep", nets=MIXED["nets"], net_options=options))
    same = {**options, "mlp": {"hidden": [9, 12]}}
    row = simulate(tiny("fedx_rep", nets=MIXED["nets"], net_options=same, rounds=2)).metrics[2]
    assert row["bytes_up"] == 2 * 4 * 12 * 30


def logits_only(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2], classes), nn.LogSoftmax(1))


def test_a_net_without_features_is_refused_before_round_one() -> None:
    with pytest.raises(InputError, match=r"gives logits only, .* or subclass fedkd\.nets\.Encoder"):
        simulate(tiny("fedx_rep", nets=logits_only, net_options={}))


def test_a_base_without_a_projection_head_or_a_public_set_is_refused() -> None:
    with pytest.raises(InputError, match="needs a public set"):
        Experiment(strategy="fedx_rep")
    with pytest.raises(InputError, match="unknown base 'simcrl'"):
        tiny({"name": "fedx_rep", "base": "simcrl"})


def test_the_clients_encoders_are_evaluated_and_the_server_has_none() -> None:
    experiment = tiny(FedXRep())
    nodes: list[Node] = [client_of(experiment), server_of(experiment)]
    named = [FedXRep().predictors(node, Knowledge()) for node in nodes]
    assert [list(predictors) for predictors in named] == [["encoder"], []]
    assert named[0]["encoder"].function(torch.zeros(2, 1, 8, 8)).shape == (2, 8)  # features, not projections
    assert dataclasses.is_dataclass(FedXRep)


def digits(strategy: dict[str, Any]) -> Experiment:
    """As in simulations/digits_fedx_rep.toml, evaluated once."""
    data = {"clients": 5, "partition": "dirichlet", "alpha": 0.5, "self_balancing": True, "public": 400}
    train = {"epochs": 3, "batch_size": 32, "lr": 0.03}
    options = {"cnn": {"channels": [16, 32], "norm": "batch"}}
    settings = {"rounds": 10, "evaluate_every": 10, "nets": {"cnn": 0.5, "mlp": 0.5}, "net_options": options}
    return Experiment(strategy=strategy, data=data, train=train, **settings)


@pytest.mark.slow
def test_meeting_in_public_images_beats_the_same_terms_alone() -> None:
    """Probes on 359 test digits, mean of five clients: 0.868 (0.855, 0.875), alone 0.838 (0.839, 0.853); seed 0 (1, 2)."""
    alone = {"name": "fedx_rep", "global_contrastive_weight": 0, "global_relational_weight": 0}
    found = {name: simulate(digits(each)).metrics[10] for name, each in (("alone", alone), ("met", {"name": "fedx_rep"}))}
    assert found["met"]["accuracy"] > found["alone"]["accuracy"] + 0.01
    assert found["met"]["client_cka"] > found["alone"]["client_cka"] + 0.1
