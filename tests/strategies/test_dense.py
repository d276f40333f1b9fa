"""DENSE: nets travel once, a generator makes what a student learns on, and every term of its loss does something."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from fedkd.strategies.dense import NOISE, POOL, Dense, mean_logits
from public_runs import client_of, one_round, server_of, tiny
from torch import Tensor

from fedkd import Experiment, InputError, Knowledge, Notice, Server, simulate
from fedkd.losses import cross_entropy_loss, disagreement
from fedkd.methods import one_shot
from fedkd.methods.synthesis import make_generator, synthesise
from fedkd.testing.kinds_of_samples import texts, vectors

SMALL = {"epochs": 2, "batch_size": 16, "generator_steps": 3, "generator_width": 4}
NORMED: dict[str, Any] = {"nets": "cnn", "net_options": {"cnn": {"channels": [2, 2], "hidden": 8, "norm": "batch"}}}
NO_PUBLIC = {"public": 0}


def small(**changes: Any) -> Experiment:
    return tiny({"name": "dense", **SMALL, **changes.pop("strategy", {})}, **{**NORMED, "data": NO_PUBLIC, **changes})


def drawn(server: Server, client: int) -> Knowledge:
    """Some weights of the client's architecture, other ones for each client."""
    net = server.net(f"drawn {client}", architecture=server.architecture_of(client), init="own")
    return Knowledge.of("weights", {name: tensor.clone() for name, tensor in net.state_dict().items()})


def teachers_of(server: Server) -> list[Any]:
    return [*one_shot.take(server, {client: drawn(server, client) for client in server.clients}).values()]


def noise(server: Server) -> Tensor:
    return torch.randn(12, *server.federation.source.shape, generator=torch.Generator().manual_seed(0))


def test_equal_nets_together_say_what_one_says() -> None:
    server = server_of(small())
    net, *_ = teachers_of(server)
    torch.testing.assert_close(mean_logits([net] * 5)(noise(server)), net(noise(server)))


def test_nothing_disagrees_where_both_name_the_same_classes() -> None:
    teacher = torch.randn(8, 10, generator=torch.Generator().manual_seed(0))
    student = (3 * teacher).requires_grad_()
    apart = disagreement(student, teacher, where_classes_differ=True)
    apart.backward()
    assert apart == 0 and student.grad is not None and not student.grad.any()
    assert disagreement(student, teacher) > 0
    some = torch.where(torch.arange(8)[:, None] < 2, -teacher, 3 * teacher)  # two name another class
    torch.testing.assert_close(
        disagreement(some, teacher, where_classes_differ=True), disagreement(some[:2], teacher[:2]) * 2 / 8
    )


def test_by_its_labels_alone_a_generator_lowers_the_cross_entropy_and_the_best_batch_is_kept() -> None:
    server = server_of(small())
    taught = mean_logits(teachers_of(server))
    generator, labels, seen = make_generator(server, noise=NOISE, width=4), torch.arange(20) % 10, []

    def wanted(samples: Tensor) -> dict[str, Tensor]:
        loss = cross_entropy_loss(taught(samples), labels)
        seen.append(float(loss.detach()))
        return {"label": loss}

    made, parts = synthesise(server, generator, wanted, size=20, steps=15, lr=0.05, rng=server.rng("test"))
    assert min(seen) < seen[0] - 0.01
    assert parts == {"label": pytest.approx(min(seen))}
    assert float(cross_entropy_loss(taught(made), labels)) == pytest.approx(min(seen), abs=1e-5)


def distilled(**strategy: Any) -> tuple[Server, Tensor]:
    """The server after a round, and what the student says of noise."""
    server = server_of(small(strategy=strategy))
    Dense(**{**SMALL, **strategy}).server_update(server, {client: drawn(server, client) for client in server.clients})
    with torch.no_grad():
        return server, one_shot.student_net(server).eval()(noise(server))


def test_what_is_made_are_pixels_that_are_normalised_as_real_ones() -> None:
    server, _ = distilled()
    mean, std = server.federation.examples.moments
    pixels = server.memory.tensor(POOL) * std[:, None, None] + mean[:, None, None]
    assert pixels.shape == (32, 1, 8, 8)
    assert pixels.min() > 0 and pixels.max() < 1


@pytest.mark.parametrize("term", ["statistics_weight", "label_weight", "adversarial_weight"])
def test_each_term_of_the_generator_changes_what_is_made(term: str) -> None:
    (one, said), (other, without) = distilled(), distilled(**{term: 0.0})
    assert not torch.allclose(one.memory.tensor(POOL), other.memory.tensor(POOL))
    assert not torch.allclose(said, without)


def test_the_student_moves_towards_the_clients_mean_on_the_samples() -> None:
    server, said = distilled(epochs=8, lr=0.05)
    fresh = server_of(small())
    before = one_shot.student_net(fresh).eval()(noise(fresh))
    target = mean_logits(list(one_shot.take(server, {}).values()))
    made = server.memory.tensor(POOL)
    student = one_shot.student_net(server).eval()
    assert not torch.allclose(before, said)
    with torch.no_grad():
        far = (one_shot.student_net(fresh).eval()(made) - target(made)).square().mean()
        assert (student(made) - target(made)).square().mean() < far
    assert {"server_label", "server_statistics", "server_adversarial", "server_distillation"} == server.reported.keys()


def test_nets_travel_once_and_the_student_from_the_second_round_on() -> None:
    nets = {"nets": {"cnn": 0.5, "mlp": 0.5}, "server_net": "mlp"}
    options = {**NORMED["net_options"], "mlp": {"hidden": [8]}}
    experiment = small(rounds=3, net_options=options, **nets)
    server = server_of(experiment)
    sizes = {name: sum(t.numel() for t in server.net(name, architecture=name).state_dict().values()) for name in nets["nets"]}
    integers = sum(
        t.numel() for n, t in server.net("cnn", architecture="cnn").state_dict().items() if not t.is_floating_point()
    )
    history = simulate(experiment)
    assert [row["bytes_up"] for row in history.metrics[1:]] == [4 * sum(sizes.values()) + 4 * integers, 0, 0]
    assert [row["bytes_down"] for row in history.metrics[1:]] == [0, 2 * 4 * sizes["mlp"], 2 * 4 * sizes["mlp"]]
    assert all(row["clients_ok"] == 2 and row["loss"] > 0 for row in history.metrics[1:])


def test_a_net_that_was_lost_is_sent_again_as_it_was_and_then_no_more() -> None:
    experiment = small()
    server, client, strategy = server_of(experiment), client_of(experiment), Dense(**SMALL)
    first = strategy.client_update(client, Knowledge())
    sent = strategy.server_update(server, {1: drawn(server, 1)})  # client 0's was lost
    again = strategy.client_update(client, sent[0])
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in first.tensors.items())
    assert again.metrics["loss"] > 0
    assert not strategy.client_update(client_of(experiment, 1), sent[1]).tensors
    assert strategy.upload_schema(server, 0).keys() == first.tensors.keys() and not strategy.upload_schema(server, 1)
    strategy.server_update(server, {0: again})
    assert [*one_shot.arrived(server)] == [0, 1]


def test_the_pool_grows_from_round_to_round_and_without_teachers_nothing_is_made() -> None:
    server, strategy = server_of(small()), Dense(**SMALL)
    assert strategy.server_update(server, {}).keys() == {0, 1}
    assert POOL not in server.memory
    for round in (1, 2):
        server.round = round
        strategy.server_update(server, {0: drawn(server, 0)} if round == 1 else {})
        assert len(server.memory.tensor(POOL)) == 32 * round


def test_a_net_that_gives_no_finite_logits_does_not_teach() -> None:
    server = server_of(small())
    bad = Knowledge.of("weights", {name: tensor * 1e30 for name, tensor in drawn(server, 1).tensors.items()})
    assert [*one_shot.take(server, {0: drawn(server, 0), 1: bad})] == [0]


TABLES: dict[str, Any] = {
    "nets": "mlp",
    "net_options": {"mlp": {"hidden": [8]}},
    "data": {"source": vectors, "public": 0, "train_limit": 0},
}


def test_tables_are_made_too() -> None:
    assert simulate(small(**TABLES)).metrics[1]["clients_ok"] == 2


def test_what_is_made_may_lie_elsewhere_than_tables_as_they_are() -> None:
    as_they_are = {**TABLES, "data": {**TABLES["data"], "normalise": "none"}}
    said = "data.normalise = \"none\": dense makes samples of mean 0 and deviation 1, and those of 'vectors' may lie elsewhere"
    assert any(line.startswith(said) for line in notices(**as_they_are))
    assert not any(line.startswith(said) for line in notices(**TABLES))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"nets": "cnn1d", "net_options": {}, "data": {"source": texts, "train_limit": 0, **NO_PUBLIC}},
            "dense makes samples of real numbers, and data.source 'texts' holds samples of kind 'tokens'",
        ),
        ({"data": {"labelled": 0.0, **NO_PUBLIC}}, "Dense needs labels"),
    ],
)
def test_what_it_cannot_work_with_is_refused_in_one_line(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason) as refused:
        simulate(small(**changes))
    assert "\n" not in str(refused.value)


def notices(**changes: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        simulate(small(**changes))
    return [str(each.message) for each in said if issubclass(each.category, Notice)]


def test_what_does_nothing_is_said_once() -> None:
    assert notices() == []
    (line,) = notices(net_options={"cnn": {"channels": [2, 2], "hidden": 8}})
    assert line == "strategy.statistics_weight = 1 does nothing here: no client's net (cnn) has BatchNorm layers"
    (line,) = notices(data={"public": 20})
    assert line == "data.public = 20 only holds samples out here, for nobody: dense uses no public samples"


@pytest.mark.slow
def test_the_student_beats_fedavgs_first_round_and_clients_alone() -> None:
    """Seen on digits, 5 clients with uneven labels, seed 0: 85.0 %; FedAvg's one round 52.9 %, clients alone 65.4 %."""
    accuracy = one_round({"name": "dense", "epochs": 30, "lr": 0.05, "statistics_weight": 0.0})
    assert accuracy > one_round("fedavg") + 0.1
    assert accuracy > one_round("local") + 0.05


@pytest.mark.slow
def test_its_report_has_no_section_on_what_is_taught_on_public_samples(tmp_path: Path) -> None:
    simulate(small(), out=tmp_path / "run")
    assert "what clients are taught on public samples" not in (tmp_path / "run" / "report.html").read_text("utf-8").lower()
