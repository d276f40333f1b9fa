"""FedMD-NFDP: a part of the samples, drawn once, and what that guarantees."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from fedkd.strategies.fedmd_nfdp import FedMDNFDP
from public_runs import client_of, few_samples, server_of, tiny

from fedkd import Knowledge, simulate
from fedkd.base.errors import RunFailed
from fedkd.data import Source, load_source
from fedkd.knowledge.privacy import subsample_guarantee


def test_the_same_samples_are_drawn_in_every_round() -> None:
    strategy, drawn = FedMDNFDP(subsample=0.5), []
    client = client_of(tiny(strategy))
    for round in (1, 2, 3):
        client.round = round
        drawn.append(strategy._drawn(client).samples.indices.tolist())
    assert len(set(drawn[0])) == client.samples // 2 == 8
    assert drawn[0] == drawn[1] == drawn[2]
    assert set(drawn[0]) < set(client.train.samples.indices.tolist())


@pytest.mark.slow
def test_samples_that_were_not_drawn_change_nothing() -> None:
    """The claim itself: other labels on them, the same upload."""
    uploads = []
    for change in (False, True):
        strategy = FedMDNFDP()
        client = client_of(tiny(strategy))
        drawn = strategy._drawn(client).samples.indices
        others = torch.tensor(sorted(set(client.train.samples.indices.tolist()) - set(drawn.tolist())))
        held = client.train.samples.labels
        before = held[others].clone()
        held[others] = (before + 1) % 10 if change else before
        uploads.append(strategy.client_update(client, Knowledge()).tensors["logits"])
        held[others] = before
    assert torch.equal(*uploads)


@pytest.mark.recomputed("fedmd_nfdp", by="hand")
@pytest.mark.slow
@pytest.mark.parametrize("replacement", [False, True])
def test_the_metrics_are_those_of_the_paper(replacement: bool) -> None:
    """Equal clients of 16 samples, 8 of them drawn: log(17/9) and 1/2 without replacement."""
    history = simulate(tiny(FedMDNFDP(replacement=replacement)))
    guarantee = subsample_guarantee(16, 8, replacement=replacement)
    assert [line["epsilon"] for line in history.clients if line["round"] == 1] == [pytest.approx(guarantee.epsilon)] * 2
    assert history.metrics[1]["delta"] == pytest.approx(guarantee.delta)
    if not replacement:
        assert guarantee.epsilon == pytest.approx(math.log(17 / 9))


@pytest.mark.recomputed("fedmd_nfdp", by="hand")
def test_an_epsilon_says_how_many_are_drawn() -> None:
    """floor(17 (1 - 1/2)) = 8 of 16."""
    strategy = FedMDNFDP(epsilon=math.log(2))
    assert len(strategy._drawn(client_of(tiny(strategy)))) == 8


def test_an_epsilon_that_no_sample_fits_fails_with_the_reason() -> None:
    with pytest.raises(RunFailed, match="round 1, client 0: InputError: a subsample of 0"):
        simulate(tiny(FedMDNFDP(epsilon=1e-6)))


def test_a_row_has_what_the_worst_of_its_clients_spent() -> None:
    """Two clients of about 20 and 40 samples, half of which are drawn: log((n + 1) / (n + 1 - n/2)) grows with n."""
    data = {"source": two_owners, "partition": "natural_id", "public": 15}
    history = simulate(tiny(FedMDNFDP(private_epochs=1), data=data))
    own = {line["client"]: line["epsilon"] for line in history.clients if line["round"] == 1}
    assert len(set(own.values())) == 2
    assert history.metrics[1]["epsilon"] == max(own.values())


def two_owners() -> Source:
    """Digits, a third of which are one client's."""
    digits = load_source("digits")
    owners = (torch.arange(len(digits.train_inputs)) % 3 > 0).long()
    return replace(digits, groups=owners)


@pytest.mark.slow
@pytest.mark.parametrize(("knowledge", "up"), [("logits", 800), ("probabilities", 800), ("labels", 20)])
def test_bytes_are_those_of_what_clients_say(knowledge: str, up: int) -> None:
    """20 samples, 10 classes, 2 clients: 4 P C bytes each, or one byte a label."""
    row = simulate(tiny(FedMDNFDP(knowledge=knowledge, public_per_round=20))).metrics[1]
    assert row["bytes_up"] == 2 * up
    assert row["bytes_down"] == 2 * 800
    assert row["digest"] > 0


@pytest.mark.parametrize("knowledge", ["logits", "probabilities", "labels"])
def test_the_digest_moves_the_net(knowledge: str) -> None:
    strategy, said = FedMDNFDP(knowledge=knowledge), []
    for label in (0, 1):
        client = client_of(tiny(strategy))
        strategy.client_update(client, Knowledge())
        table = torch.nn.functional.one_hot(torch.full((30,), label), 10).float()
        client.exchange = 1
        strategy.client_update(client, Knowledge.of("probabilities", {"consensus": table}))
        client.exchange, client.round = 0, 2
        said.append(FedMDNFDP().client_update(client, Knowledge()).tensors["logits"])
    assert not torch.equal(*said)


def test_of_labels_the_server_sends_vote_shares() -> None:
    strategy = FedMDNFDP(knowledge="labels")
    votes = {k: Knowledge.of("labels", {"labels": torch.tensor([v], dtype=torch.uint8)}) for k, v in enumerate((3, 3, 3, 5))}
    consensus = strategy.server_update(server_of(tiny(strategy)), votes).tensors["consensus"]
    assert consensus.tolist() == [[0.0, 0.0, 0.0, 0.75, 0.0, 0.25, 0.0, 0.0, 0.0, 0.0]]


@pytest.mark.slow
def test_agreeing_on_a_part_beats_training_alone_on_everything() -> None:
    """Mean accuracy of the clients' nets on 359 test digits: 0.73 (0.76) on 7 of 10 samples, against 0.62 (0.66) alone on
    all in twice as many rounds; seed 0 (1)."""
    alone = simulate(few_samples("local", rounds=20)).metrics[-1]["accuracy"]
    assert simulate(few_samples(FedMDNFDP(subsample=0.7))).metrics[-1]["accuracy"] > alone + 0.06
