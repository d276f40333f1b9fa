"""FedMD: a mean of logits, a digest towards it, a revisit of one's own samples."""

from __future__ import annotations

import pytest
import torch
from fedkd.strategies.fedmd import FedMD
from public_runs import client_of, few_samples, server_of, tiny

from fedkd import Knowledge, simulate
from fedkd.methods.public_distillation import predict_public


def logits(table: torch.Tensor, weight: float = 1.0) -> Knowledge:
    return Knowledge.of("logits", {"logits": table}, weight=weight)


def digested(offset: float) -> tuple[float, torch.Tensor]:
    """One client that hears its own logits plus an offset, at a learning rate of nearly nothing: the digest, its new logits."""
    strategy = FedMD(private_epochs=0)
    client = client_of(tiny(strategy, train={"lr": 1e-3}))
    said = strategy.client_update(client, Knowledge()).tensors["logits"]
    client.exchange = 1
    upload = strategy.client_update(client, logits(said + offset))
    assert not upload.tensors
    return upload.metrics["digest"], predict_public(client.net(), client.public_subset())


@pytest.mark.recomputed("fedmd", by="hand")
def test_the_server_sends_the_plain_mean_and_then_nothing() -> None:
    strategy = FedMD()
    uploads = {0: logits(torch.tensor([[0.0, 4.0]]), 1), 1: logits(torch.tensor([[4.0, 0.0]]), 3)}
    experiment = tiny(strategy)
    assert strategy.server_update(server_of(experiment), uploads).tensors["logits"].tolist() == [[2.0, 2.0]]
    assert not strategy.server_update(server_of(experiment, exchange=1), {0: Knowledge()}).tensors


@pytest.mark.recomputed("fedmd", by="hand")
def test_the_digest_is_the_mean_absolute_difference_of_logits() -> None:
    assert digested(0.5)[0] == pytest.approx(0.5, abs=0.01)
    assert digested(2.0)[0] == pytest.approx(2.0, abs=0.01)


def test_the_digest_moves_the_net() -> None:
    assert not torch.equal(digested(2.0)[1], digested(-2.0)[1])


def test_digest_and_revisit_remember_their_own_optimisers() -> None:
    experiment = tiny("fedmd")
    client, strategy = client_of(experiment), experiment.strategy
    said = strategy.client_update(client, Knowledge())
    client.exchange = 1
    strategy.client_update(client, said)
    client.flush()
    momenta = [client.memory.under(f"optimizer/{name}/") for name in ("digest", "revisit")]
    assert all(momenta)
    assert not torch.equal(momenta[0]["0/momentum_buffer"], momenta[1]["0/momentum_buffer"])


def test_the_revisit_goes_on_where_the_warm_up_on_own_samples_ended() -> None:
    """Adam counts the steps of three epochs of the warm-up, then of one more epoch each round; none of the public samples."""
    train = {"optimizer": "adam", "batch_size": 8, "lr": 1e-3, "epochs": 1}
    data = {"train_limit": 70, "public": 30, "public_labels": True}
    client = client_of(experiment := tiny(FedMD(private_epochs=3, public_epochs=5), data=data, train=train))
    steps = -(-len(client.train) // 8)
    counts = []
    for client.round in (1, 2):
        client.exchange = 0
        said = experiment.strategy.client_update(client, Knowledge())
        client.flush()
        counts.append(client.memory["optimizer/revisit/0/step"].item())  # type: ignore[union-attr]
        client.exchange = 1
        experiment.strategy.client_update(client, said)
        client.flush()
        counts.append(client.memory["optimizer/revisit/0/step"].item())  # type: ignore[union-attr]
    assert counts == [3 * steps, 4 * steps, 4 * steps, 5 * steps]


@pytest.mark.slow
def test_logits_of_the_rounds_samples_are_all_that_travels() -> None:
    """4 P C bytes each way, a client and round: 20 samples, 10 classes, 2 clients."""
    row = simulate(tiny(FedMD(public_per_round=20))).metrics[1]
    assert row["bytes_up"] == row["bytes_down"] == 2 * 4 * 20 * 10
    assert row["digest"] > 0


@pytest.mark.slow
def test_agreeing_beats_training_alone() -> None:
    """Mean accuracy of the clients' nets on 359 test digits: 0.79 (0.80), against 0.62 (0.66) of twice as many rounds
    alone; seed 0 (1)."""
    alone = simulate(few_samples("local", rounds=20)).metrics[-1]["accuracy"]
    assert simulate(few_samples("fedmd")).metrics[-1]["accuracy"] > alone + 0.1
