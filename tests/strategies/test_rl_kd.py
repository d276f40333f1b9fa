"""RL-KD: who is drawn, what a sample is rewarded for, and that chances follow the rewards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fedkd.strategies.rl_kd import (
    RLKD,
    drawn_distillation,
    policy_states,
    rewards,
    selection_scores,
    standardised,
)
from public_runs import few_samples, server_of, tiny
from torch import nn

from fedkd import Knowledge, Server, simulate
from fedkd.losses import kd_loss

OPTIONS = {"mlp": {"hidden": [8]}}


def server_with(strategy: RLKD, lr: float = 1e-9, **changes: Any) -> Server:
    return server_of(tiny(strategy, train={"batch_size": 64, "lr": lr, "weight_decay": 0.0}, **changes))


def uploads_of(server: Server, *clients: int) -> dict[int, Knowledge]:
    uploads = {}
    for client in clients:
        net = server.net(f"drawn {client}", init="own")
        uploads[client] = Knowledge.of("weights", {name: tensor.clone() for name, tensor in net.state_dict().items()})
    return uploads


def policies(server: Server) -> dict[str, torch.Tensor]:
    server.flush()
    return {name: tensor.clone() for name, tensor in server.memory.under("module/policy/mlp/").items()}


@pytest.mark.recomputed("rl_kd", by="formula")
def test_a_step_descends_the_divergences_from_the_drawn_teachers() -> None:
    server = server_with(RLKD(temperature=2.0, weight=3.0, label_weight=0.5), data={"public_labels": True})
    uploads = uploads_of(server, 0, 1)
    batch = next(server.public.batches(epochs=1, batch_size=64, rng=server.rng("batches")))
    own, said = server.net("student", architecture="mlp", keep=True)(batch.inputs), []
    for upload in uploads.values():
        teacher = server.net("copy")
        teacher.load_state_dict(dict(upload.tensors))
        said.append(teacher.eval()(batch.inputs))
    drawn = (torch.rand(2, len(server.public), generator=server.rng("selection")) < 0.5)[:, batch.positions]
    expected = 0.0
    for i in range(len(batch)):
        terms = [kd_loss(own[i : i + 1], one[i : i + 1], temperature=2.0).item() for k, one in enumerate(said) if drawn[k, i]]
        expected += sum(terms) / max(1, len(terms)) / len(batch)
    server.experiment.strategy.server_update(server, uploads)
    assert server.reported["server_distillation"] == pytest.approx(3.0 * expected, rel=1e-4)
    labels = F.cross_entropy(own, batch.labels).item()
    assert server.reported["server_cross_entropy"] == pytest.approx(0.5 * labels, rel=1e-4)
    assert server.reported["server_selected"] == pytest.approx(drawn.float().mean().item(), abs=1e-6)


def test_all_drawn_is_the_mean_over_teachers_and_nobody_drawn_teaches_nothing() -> None:
    logits, said = torch.randn(6, 4), torch.randn(3, 6, 4)
    everybody = torch.ones(3, 6, dtype=torch.bool)
    mean = torch.stack([kd_loss(logits, one, temperature=2.0) for one in said]).mean()
    torch.testing.assert_close(drawn_distillation(logits, said, everybody, temperature=2.0), mean)
    assert drawn_distillation(logits, said, ~everybody, temperature=2.0).item() == 0.0


def test_a_right_answer_like_the_teachers_is_rewarded() -> None:
    said = torch.tensor([[[4.0, 0.0]] * 3])
    own = torch.tensor([[4.0, 0.0], [0.0, 0.0], [0.0, 4.0]])
    earned = rewards(own, said, torch.zeros(3, dtype=torch.int64), temperature=1.0, imitation=1.0)
    assert earned[0] > earned[1] > earned[2]
    assert earned[0].item() == pytest.approx(-F.cross_entropy(own[:1], torch.tensor([0])).item(), abs=1e-6)  # no divergence


def test_reinforce_raises_the_chance_of_what_was_rewarded() -> None:
    """One teacher helps, the other harms: after steps on the strategy's loss they are drawn accordingly."""
    states = policy_states(torch.rand(50, 3), torch.randn(2, 50, 4), torch.randint(4, (50,)))
    assert states.shape == (2, 50, 3 + 4 + 1)
    layers = nn.ModuleList(nn.Linear(8, 1) for _ in range(2))
    optimizer = torch.optim.SGD(layers.parameters(), lr=0.5)
    rng = torch.Generator().manual_seed(0)
    for _ in range(100):
        scores = selection_scores(layers, states)
        drawn = torch.rand(2, 50, generator=rng) < scores.detach().sigmoid()
        advantage = standardised(drawn[0].float() - drawn[1].float())
        optimizer.zero_grad()
        surprise = F.binary_cross_entropy_with_logits(scores, drawn.float(), reduction="none").sum(0)
        (advantage * surprise).mean().backward()
        optimizer.step()
    chances = selection_scores(layers, states).sigmoid().mean(1)
    assert chances[0] > 0.9
    assert chances[1] < 0.1


def test_policies_learn_are_kept_by_client_and_decide() -> None:
    server = server_with(RLKD(), lr=0.1)
    uploads = uploads_of(server, 0, 1)
    server.experiment.strategy.server_update(server, uploads)
    learned = policies(server)
    assert all(bool(tensor.any()) for name, tensor in learned.items() if name.endswith("weight"))
    server.experiment.strategy.server_update(server, {1: uploads[1]})
    again = policies(server)
    assert torch.equal(again["0/weight"], learned["0/weight"])
    assert not torch.equal(again["1/weight"], learned["1/weight"])


def test_samples_without_labels_are_taught_too() -> None:
    server = server_with(RLKD())
    server.experiment.strategy.server_update(server, uploads_of(server, 0, 1))
    assert set(server.reported) == {f"server_{name}" for name in ("distillation", "loss", "selected", "reward")}


def test_weights_travel_as_the_formula_says() -> None:
    row = simulate(tiny(RLKD())).metrics[1]
    net = 4 * (64 * 8 + 8 + 8 * 10 + 10)
    assert (row["bytes_up"], row["bytes_down"]) == (2 * net, 2 * net)


@pytest.mark.slow
def test_the_student_is_better_than_the_clients_that_teach_it() -> None:
    train = {"optimizer": "adam", "lr": 0.003}
    last = simulate(few_samples("rl_kd", server_net="cnn", train=train)).metrics[-1]
    alone = simulate(few_samples("local", train=train)).metrics[-1]
    assert last["accuracy"] > alone["accuracy"] + 0.1
