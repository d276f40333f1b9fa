"""SSKD: batches of turned images, what teachers say of them, their heads, and the loss of a step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fedkd.strategies.sskd import SSKD, look_up, record_turned, turned
from public_runs import few_samples, server_of, tiny

from fedkd import Experiment, InputError, Knowledge, Server, simulate
from fedkd.data import Source
from fedkd.losses import SSKDLoss
from fedkd.losses.distillers import Shown
from fedkd.methods.students.teachers import live_teachers

OPTIONS = {"cnn": {"channels": [2, 4], "hidden": 8}, "mlp": {"hidden": [8]}}
TERMS = ("kd", "tf", "ss")


def server_with(strategy: SSKD, lr: float = 1e-9, **changes: Any) -> Server:
    settings = {"nets": "cnn", "net_options": OPTIONS, "train": {"batch_size": 64, "lr": lr, "weight_decay": 0.0}}
    return server_of(tiny(strategy, **{**settings, **changes}))


def uploads_of(server: Server, *clients: int) -> dict[int, Knowledge]:
    uploads = {}
    for client in clients:
        net = server.net(f"drawn {client}", architecture=server.architecture_of(client), init="own")
        uploads[client] = Knowledge.of("weights", {name: tensor.clone() for name, tensor in net.state_dict().items()})
    return uploads


def test_what_was_recorded_is_what_teachers_say_of_turned_images() -> None:
    server = server_with(SSKD(), nets={"cnn": 0.5, "mlp": 0.5})
    nets = [server.net(name, architecture=name).eval() for name in ("cnn", "mlp")]
    teachers = live_teachers(nets, frozenset({"logits", "features"}))
    table, widths = record_turned(teachers, server.public)
    assert widths == [8, 8]
    batch = next(server.public.batches(epochs=1, batch_size=7, rng=server.rng("any")))
    shown = Shown(turned(batch.inputs), batch.labels, batch.ids)
    for (logits, features), outputs in zip(look_up(table, widths, batch, 10), teachers(shown), strict=True):
        torch.testing.assert_close(logits, outputs.logits, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(features, outputs.features, rtol=1e-5, atol=1e-6)


@pytest.mark.recomputed("sskd", by="formula")
def test_a_step_descends_the_losses_of_the_paper() -> None:
    """One batch of all public samples, heads that do not move: the parts are those of ``SSKDLoss``, upright labels beside."""
    server = server_with(SSKD(label_weight=0.5), data={"public_labels": True})
    uploads = uploads_of(server, 0)
    batch = next(server.public.batches(epochs=1, batch_size=64, rng=server.rng("batches")))
    images = turned(batch.inputs)
    own = server.net("student", architecture="cnn", keep=True).outputs(images)
    teacher = server.net("copy", architecture="cnn")
    teacher.load_state_dict(dict(uploads[0].tensors))
    said = teacher.eval().outputs(images)
    server.experiment.strategy.server_update(server, uploads)
    server.flush()
    loss = SSKDLoss(8, 8)
    loss.load_state_dict(server.memory.under("module/sskd/cnn/0/"))
    parts = loss.parts(own.logits, own.features, said.logits, said.features, batch.labels)
    for name in TERMS:
        expected = loss.weights[name] * parts[name].item()
        assert server.reported[f"server_{name}"] == pytest.approx(expected, rel=1e-3, abs=1e-5)
    labels = torch.nn.functional.cross_entropy(own.logits[::4], batch.labels).item()
    assert server.reported["server_cross_entropy"] == pytest.approx(0.5 * labels, rel=1e-4)


@pytest.mark.parametrize("term", TERMS)
def test_each_term_moves_the_student_by_itself(term: str) -> None:
    weights = {f"{name}_weight": 10.0 * (name == term) for name in TERMS}
    server = server_with(SSKD(**weights), lr=0.1)
    before = {n: t.clone() for n, t in server.net("student", architecture="cnn", keep=True).state_dict().items()}
    after = server.experiment.strategy.server_update(server, uploads_of(server, 0, 1)).tensors
    moved = {name for name, tensor in before.items() if (after[name] - tensor).abs().max() > 1e-7}
    assert any(name.startswith("encoder.") for name in moved)
    assert any(name.startswith("heads.") for name in moved) == (term != "ss")  # which reads features alone
    assert set(server.reported) == {f"server_{term}", "server_loss"}


def test_heads_learn_to_know_images_again_and_teachers_stay_as_they_are() -> None:
    losses = []
    for epochs in (1, 200):
        train = {"batch_size": 64, "optimizer": "adam", "lr": 0.01}
        server = server_with(SSKD(head_epochs=epochs), train=train)
        uploads = uploads_of(server, 0)
        kept = {name: tensor.clone() for name, tensor in uploads[0].tensors.items()}
        server.experiment.strategy.server_update(server, uploads)
        assert all(torch.equal(tensor, uploads[0].tensors[name]) for name, tensor in kept.items())
        server.flush()
        teacher = server.net("copy", architecture="cnn")
        teacher.load_state_dict(kept)
        batch = next(server.public.batches(epochs=1, batch_size=64, rng=server.rng("any")))
        heads = SSKDLoss(8, 8)
        heads.load_state_dict(server.memory.under("module/sskd/cnn/0/"))
        losses.append(heads.teacher_head_loss(teacher.eval().features(turned(batch.inputs))).item())
    assert losses[1] < losses[0] - 0.05


def test_samples_without_labels_are_taught_too() -> None:
    server = server_with(SSKD())
    server.experiment.strategy.server_update(server, uploads_of(server, 0, 1))
    assert set(server.reported) == {"server_kd", "server_tf", "server_ss", "server_loss"}


def test_weights_travel_as_the_formula_says() -> None:
    row = simulate(tiny(SSKD(head_epochs=1), nets="cnn", net_options=OPTIONS)).metrics[1]
    net = sum(4 * tensor.numel() for tensor in server_with(SSKD()).net("any", architecture="cnn").state_dict().values())
    assert (row["bytes_up"], row["bytes_down"]) == (2 * net, 2 * net)


def oblong() -> Source:
    images, labels = torch.randint(256, (60, 1, 4, 6), dtype=torch.uint8), torch.arange(60) % 2
    return Source("oblong", images, labels, images[:10], labels[:10], ("a", "b"))


def test_says_what_cannot_be() -> None:
    with pytest.raises(InputError, match="SSKD needs a public set"):
        Experiment(strategy="sskd", rounds=1)
    with pytest.raises(InputError, match="of 0 SSKD teaches nothing: raise one"):
        Experiment(strategy=SSKD(kd_weight=0.0, tf_weight=0.0, ss_weight=0.0), rounds=1, data={"public": 20})
    data = {"source": oblong, "clients": 2, "partition": "iid", "public": 20}
    with pytest.raises(InputError, match=r"SSKD turns images, and these are \(1, 4, 6\), not square: take other data"):
        simulate(Experiment(strategy="sskd", rounds=1, nets="mlp", data=data))


@pytest.mark.slow
def test_the_student_is_better_than_the_clients_that_teach_it() -> None:
    train = {"optimizer": "adam", "lr": 0.003}
    last = simulate(few_samples("sskd", nets="cnn", train=train)).metrics[-1]
    alone = simulate(few_samples("local", nets="cnn", train=train)).metrics[-1]
    assert last["accuracy"] > alone["accuracy"] + 0.1
