"""Local encoders: self-supervised training at every client, and no word between them."""

from __future__ import annotations

import pytest
import torch
from fedkd.strategies.local_encoders import LocalEncoders
from public_runs import client_of, server_of, tiny

from fedkd import InputError, Knowledge, simulate
from fedkd.losses import nt_xent_loss
from fedkd.methods.encoders.own_encoders import own_net

NETS = {"cnn": 0.5, "mlp": 0.5}


@pytest.mark.slow
def test_nothing_travels_and_nets_may_differ() -> None:
    history = simulate(tiny("local_encoders", rounds=2, nets=NETS, data={"public": 0, "labelled": 0.5}))
    assert [row["bytes_up"] + row["bytes_down"] for row in history.metrics] == [0, 0, 0]
    assert history.metrics[2]["local_contrastive"] == history.metrics[2]["loss"] > 0
    assert 0 < history.metrics[2]["accuracy"] <= 1


@pytest.mark.recomputed("local_encoders", by="formula")
def test_a_step_descends_the_bases_loss_and_the_net_is_kept() -> None:
    """One batch in one epoch: the logged loss is NT-Xent of the first views, by the net as it was drawn."""
    strategy = LocalEncoders(temperature=0.5)
    experiment = tiny(strategy, train={"batch_size": 64})
    client, twin = client_of(experiment), client_of(experiment)
    upload = strategy.client_update(client, Knowledge())
    net = own_net(twin, strategy.build_base()).train()
    (batch,) = twin.train.batches(epochs=1, batch_size=64, rng=twin.rng("batches"))
    views = [net.head("projection", net.features(batch.view(number))) for number in (1, 2)]
    assert upload.metrics["loss"] == pytest.approx(nt_xent_loss(*views, temperature=0.5).item(), rel=1e-5)
    assert not upload.tensors
    assert upload.weight == len(client.train)
    client.flush()
    kept = client.memory.under("net/main/")
    assert all(torch.equal(kept[name], tensor) for name, tensor in own_net(client, strategy.build_base()).state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("base", ["simclr", "moco", "byol"])
def test_any_base_will_do(base: str) -> None:
    options = {"moco": {"queue": 64}}.get(base, {})
    strategy = {"name": "local_encoders", "base": base, "base_options": options}
    rows = simulate(tiny(strategy, rounds=2, train={"batch_size": 16})).metrics
    assert rows[2]["loss"] > 0
    assert rows[2]["loss"] != rows[1]["loss"]


def test_what_a_base_asks_for_is_checked() -> None:
    with pytest.raises(InputError, match="no multiple of the 128 keys"):
        tiny({"name": "local_encoders", "base": "moco", "base_options": {"queue": 100}})
    with pytest.raises(InputError, match="more than the"):
        simulate(tiny({"name": "local_encoders", "base": "protocl", "base_options": {"prototypes": [8, 200], "queue": 128}}))


def test_the_server_evaluates_nothing() -> None:
    assert LocalEncoders().predictors(server_of(tiny(LocalEncoders())), Knowledge()) == {}
