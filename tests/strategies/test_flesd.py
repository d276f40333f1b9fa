"""FLESD: similarities of the clients' rows, their mean, and a student that learns them against a queue."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from anchor_runs import D, anchors, unit
from fedkd.strategies.flesd import FLESD, ensemble_similarities, renormalised
from public_runs import client_of, server_of, tiny

from fedkd import Experiment, InputError, Knowledge, Server, predict, simulate
from fedkd.losses import soft_cross_entropy
from fedkd.losses.rows import unit_rows
from fedkd.methods.encoders.anchors import embed_public

SMALL = {"train": {"batch_size": 8}}


def test_equal_clients_give_the_matrix_of_one() -> None:
    one = ensemble_similarities([unit(0, 12)], temperature=0.1)
    torch.testing.assert_close(ensemble_similarities([unit(0, 12)] * 3, temperature=0.1), one)
    torch.testing.assert_close(one.diagonal(), torch.ones(12))
    assert float(one.min()) > 0


@pytest.mark.recomputed("flesd", by="formula")
def test_the_mean_is_of_the_exponentials_and_clients_may_differ_in_width() -> None:
    pair = [unit(0, 12, 3), unit(1, 12, 7)]
    by_hand = torch.stack([((rows @ rows.T - 1) / 0.5).exp() for rows in pair]).mean(0)
    torch.testing.assert_close(ensemble_similarities(pair, temperature=0.5), by_hand, atol=1e-5, rtol=1e-4)


@pytest.mark.recomputed("flesd", by="formula")
def test_all_are_kept_at_1_and_at_less_only_the_likest() -> None:
    rows = unit(0, 10, 3)
    whole = ensemble_similarities([rows], temperature=0.5)
    torch.testing.assert_close(ensemble_similarities([rows], temperature=0.5, kept=1.0), whole)
    part = ensemble_similarities([rows], temperature=0.5, kept=0.2)  # two beside the sample itself
    zero = torch.tensor(-1 / 0.5).exp()  # of a cosine of 0
    for row in range(10):
        likest = (rows @ rows[row]).topk(3).indices.tolist()
        for column in range(10):
            expected = whole[row, column] if column in likest else zero
            assert float(part[row, column]) == pytest.approx(float(expected), rel=1e-4)


def test_a_student_that_is_the_only_client_has_no_gradient() -> None:
    """At equal temperatures, whatever the keys in the queue are, some of them twice."""
    rows, positions, columns = unit(0, 12).double(), torch.tensor([3, 5]), torch.tensor([1, 3, 5, 5, 7, 11])
    target = renormalised(ensemble_similarities([rows], temperature=0.1), positions, columns)
    torch.testing.assert_close(target.sum(1), torch.ones(2).double())
    logits = (rows[positions] @ rows[columns].T / 0.1).requires_grad_()
    soft_cross_entropy(logits, target).backward()
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) < 1e-12


def rounds(strategy: FLESD, server: Server, *rows: torch.Tensor, times: int = 1) -> Any:
    uploads = {client: anchors(each) for client, each in enumerate(rows)}
    for _ in range(times):
        told = strategy.server_update(server, uploads)
    return told


def test_the_student_comes_to_relate_public_samples_as_the_clients_do() -> None:
    strategy = FLESD(
        student_epochs=30, student_batch_size=10, student_lr=0.003, target_temperature=0.5, student_temperature=0.5
    )
    server = server_of(tiny(strategy, **SMALL))
    subset = server.public_subset(round=0)
    pixels = predict(lambda inputs: inputs.flatten(1), subset.samples, subset.work)
    rows = unit_rows(pixels - pixels.mean(0))  # what a client says: how alike the images are

    def agreement() -> float:
        own = embed_public(strategy._student(server), subset)
        return float(torch.corrcoef(torch.stack([(own @ own.T).flatten(), (rows @ rows.T).flatten()]))[0, 1])

    before = agreement()
    rounds(strategy, server, rows, rows, times=3)
    assert agreement() > before + 0.1
    assert server.reported["server_relation"] > 0


def test_the_student_goes_to_clients_of_its_own_kind_only() -> None:
    strategy = FLESD(student_epochs=1, public_samples=20)
    experiment = tiny(strategy, nets={"mlp": 0.5, "cnn": 0.5}, net_options={}, server_net="mlp", **SMALL)
    server = server_of(experiment)
    kinds = [server.architecture_of(k) for k in server.clients]
    told = rounds(strategy, server, unit(0, 20), unit(1, 20))
    for client, kind in enumerate(kinds):
        assert bool(told[client].tensors) == (kind == "mlp") == bool(strategy.first_broadcast(server)[client].tensors)
    client = client_of(experiment, kinds.index("mlp"))
    upload = strategy.client_update(client, told[client.id])
    assert upload.tensors["anchors"].shape == (20, D)
    strategy.check_upload(server, upload)


def test_a_client_begins_with_the_student_it_is_sent() -> None:
    strategy = FLESD(public_samples=20)
    experiment = tiny(strategy, train={"batch_size": 8, "lr": 1e-9})
    sent = rounds(strategy, server_of(experiment), unit(0, 20))[0]
    client = client_of(experiment)
    strategy.client_update(client, sent)
    for name, tensor in client.net().state_dict().items():
        torch.testing.assert_close(tensor, sent.tensors[name], atol=1e-5, rtol=1e-4)


def test_rows_go_up_and_the_student_down() -> None:
    """4 * 256 P bytes up and |θ| elements down: 2 clients, 20 samples."""
    experiment = tiny(FLESD(public_samples=20, student_epochs=1), rounds=2, evaluate_every=2, **SMALL)
    rows = simulate(experiment).metrics
    student = sum(tensor.numel() for tensor in FLESD()._student(server_of(experiment)).state_dict().values())
    assert [row["bytes_up"] for row in rows[1:]] == [2 * 4 * D * 20] * 2
    assert [row["bytes_down"] for row in rows[1:]] == [2 * 4 * student] * 2
    assert 0 < rows[2]["accuracy"] <= 1


def test_long_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="a row of length 2, not 1"):
        FLESD().check_upload(server_of(tiny(FLESD())), anchors(2 * unit(0, 30)))


def test_it_needs_public_samples_and_no_labels() -> None:
    with pytest.raises(InputError, match="needs a public set"):
        Experiment(strategy="flesd")
    with pytest.raises(InputError, match="256 keys do not hold a batch of 256 and one more"):
        tiny({"name": "flesd", "queue": 256})
    with pytest.raises(InputError, match=r"strategy\.temperature = 0\.2 does nothing here"):
        tiny({"name": "flesd", "base": "byol", "temperature": 0.2})
    assert FLESD().server_update(server_of(tiny(FLESD())), {}) == {}
    assert not FLESD.needs.labels and isinstance(Knowledge(), Knowledge)


@pytest.mark.slow
def test_on_digits_it_beats_encoders_that_are_trained_alone() -> None:
    """5 clients with uneven labels, 400 public digits; the probe of the student against the mean of the clients' own."""
    data = {"clients": 5, "partition": "dirichlet", "alpha": 0.5, "self_balancing": True, "public": 400}
    how = {"nets": "cnn", "net_options": {"cnn": {"channels": [16, 32], "norm": "batch"}}, "data": data}
    train, when = {"epochs": 3, "batch_size": 32, "lr": 0.03}, {"rounds": 3, "evaluate_every": 3}
    flesd = {"name": "flesd", "student_epochs": 50, "student_batch_size": 64}
    found = {
        str(strategy): simulate(Experiment(strategy=strategy, train=train, **how, **when)).metrics[-1]["accuracy"]
        for strategy in ("local_encoders", flesd)
    }
    assert found[str(flesd)] > found["local_encoders"] + 0.03
