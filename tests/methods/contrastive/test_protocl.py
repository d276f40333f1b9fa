"""ProtoCL: its loss against the definition, when it clusters, what it keeps, whom it refuses, and that it learns."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from threadpoolctl import threadpool_limits
from torch import Tensor

import fedkd.methods.contrastive.protocl as protocl_module
from fedkd import Experiment, InputError, simulate
from fedkd.base.errors import TrainingError
from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.functions import Functions
from fedkd.experiment.algorithm.train import Batch
from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.memory import Memory
from fedkd.methods.contrastive import BASES, ProtoCL, Views, make_base
from fedkd.methods.contrastive.protocl import Clusters, ProtoCLState, cluster
from fedkd.methods.encoders.global_encoder import train_by
from fedkd.nets import Net

SMALL = ProtoCL(prototypes=(2, 4), queue=16, warm_up=0)


def experiment_of(strategy: Any = "fedprotocl", *, rounds: int = 2, epochs: int = 1, **data: Any) -> Experiment:
    """50 digits, 2 equal clients, batches of 8 unless told otherwise."""
    settings = {"clients": 2, "partition": "iid", "train_limit": 50, **data}
    train = {"batch_size": 8, "epochs": epochs, "lr": 0.05}
    return Experiment(
        strategy=strategy,
        rounds=rounds,
        data=settings,
        train=train,
        nets="cnn",
        net_options={"cnn": {"channels": [4], "hidden": 8}},
    )


def client_of(*, round: int = 1, memory: Memory | None = None, **changes: Any) -> Client:
    experiment, memory = experiment_of("fedsimclr", **changes), Memory() if memory is None else memory
    client = Client(0, experiment, Functions(), experiment.federation(), memory, torch.device("cpu"))
    client.round = round
    return client


def trained(base: ProtoCL, client: Client) -> Knowledge:
    """What a client uploads that starts from weights of its own round."""
    other = client.net("other", heads=base.heads, init="own")
    return train_by(client, Knowledge.of("weights", {k: v.clone() for k, v in other.state_dict().items()}), base)


def opened(base: ProtoCL, client: Client) -> tuple[ProtoCLState, Net, Batch, Views]:
    """A training that has begun, and its first batch of 8."""
    net = client.net(heads=base.heads)
    state = base.start(client, net)
    batch = next(client.train.batches(epochs=1, batch_size=8, rng=torch.Generator().manual_seed(0)))
    images = torch.cat([batch.view(1), batch.view(2)])
    return state, net, batch, Views(images, net.head("projection", net.features(images)), batch.ids)


def test_is_a_base_by_its_name() -> None:
    assert BASES["protocl"] is ProtoCL
    base = make_base("protocl", {"prototypes": "4,8"}, temperature=0.2)
    assert base == ProtoCL(temperature=0.2, prototypes=(4, 8))


@pytest.mark.recomputed("fedprotocl", by="formula")
@pytest.mark.slow
def test_the_prototype_term_is_the_mean_over_both_views_and_all_clusterings() -> None:
    state, net, batch, views = opened(SMALL, client_of())
    parts = SMALL.loss(state, net, views)
    ids = state.client.train.samples.indices.tolist()
    expected = []
    for each in state.clusterings:
        for row, id in zip(views.projected.detach(), batch.ids.tolist() * 2, strict=True):
            own = int(each.labels[ids.index(id)])
            scores = [
                float(F.cosine_similarity(row, prototype, dim=0)) / float(phi)
                for prototype, phi in zip(each.prototypes, each.concentrations, strict=True)
            ]
            expected.append(math.log(sum(map(math.exp, scores))) - scores[own])
    assert parts["prototype_contrastive"].item() == pytest.approx(sum(expected) / len(expected), rel=1e-4)
    assert set(parts) == {"local_contrastive", "prototype_contrastive"}


@pytest.mark.slow
def test_the_local_term_is_mocos() -> None:
    state, net, _, views = opened(SMALL, client_of())
    other, net2, _, same = opened(SMALL, client_of())
    expected = SMALL.moco.loss(other.moco, net2, same)["local_contrastive"]
    assert SMALL.loss(state, net, views)["local_contrastive"].item() == expected.item()


def test_the_gradient_reaches_the_trained_net_only() -> None:
    state, net, _, views = opened(SMALL, client_of())
    SMALL.loss(state, net, views)["prototype_contrastive"].backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in net.encoder.parameters())
    assert all(parameter.grad is None for parameter in state.moco.key.parameters())


def test_clusters_are_of_the_key_encoders_unaugmented_images_in_eval_mode() -> None:
    state, net, _, views = opened(SMALL, client_of())
    images = next(iter(state.client.train.batches(epochs=1, batch_size=99, rng=torch.Generator())))
    key = state.moco.key.eval()
    rows = F.normalize(key.head("projection", key.features(images.inputs)), dim=1)
    SMALL.loss(state, net, views)
    for m, each in enumerate(state.clusterings):
        labels = state.labels.rows(images.ids)[:, m]
        means = [rows[labels == number].mean(0) for number in range(len(each.prototypes))]
        torch.testing.assert_close(each.prototypes, F.normalize(torch.stack(means), dim=1), rtol=1e-4, atol=1e-5)
    assert key.training


def test_clusters_are_made_as_an_epoch_begins_and_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """25 samples in batches of 8 are four steps, the last of one sample joined to the third: (8, 8, 9)."""
    made: list[tuple[int, int]] = []
    steps = 0
    step = ProtoCL.after_step

    def counted(*given: Any, **named: Any) -> Clusters:
        made.append((steps, given[1]))
        return cluster(*given, **named)

    def stepped(self: ProtoCL, state: ProtoCLState, net: Net) -> None:
        nonlocal steps
        steps += 1
        step(self, state, net)

    monkeypatch.setattr(protocl_module, "cluster", counted)
    monkeypatch.setattr(ProtoCL, "after_step", stepped)
    trained(SMALL, client_of(epochs=3, client_test=0.0))
    assert made == [(0, 2), (0, 4), (3, 2), (3, 4), (6, 2), (6, 4)]
    assert steps == 9


def test_while_it_warms_up_it_is_moco() -> None:
    client = client_of(round=1)
    upload = trained(ProtoCL(prototypes=(2, 4), queue=16, warm_up=1), client)
    assert upload.metrics["prototype_contrastive"] == 0
    same = train_by(
        client_of(round=1),
        Knowledge.of("weights", dict(client.net("other", heads=("projection",), init="own").state_dict())),
        SMALL.moco,
    )
    assert all(torch.equal(upload.tensors[name], tensor) for name, tensor in same.tensors.items())
    later = trained(ProtoCL(prototypes=(2, 4), queue=16, warm_up=1), client_of(round=2))
    assert later.metrics["prototype_contrastive"] > 0


def test_the_key_encoder_and_the_queue_are_kept_over_rounds() -> None:
    memory = Memory()
    first = client_of(memory=memory)
    trained(SMALL, first)
    first.flush()
    held = memory.under("net/key/")
    second = client_of(round=2, memory=memory)
    state = SMALL.start(second, second.net(heads=SMALL.heads))
    assert held
    assert all(torch.equal(held[name], tensor) for name, tensor in state.moco.key.state_dict().items())
    assert torch.equal(state.moco.queue.keys, memory.tensor("queue"))
    assert {key.partition("/")[0] for key in memory} == {"net", "queue", "queue_oldest"}  # no prototypes


def blobs() -> Tensor:
    """40 unit rows around 4 axes."""
    noise = 0.1 * torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    return F.normalize(torch.eye(6)[:4].repeat_interleave(10, 0) + noise, dim=1)


def test_clusters_of_well_separated_samples_are_found() -> None:
    found = cluster(blobs(), 4, temperature=0.1, alpha=10, seed=0)
    assert [len(set(found.labels[start : start + 10].tolist())) for start in range(0, 40, 10)] == [1, 1, 1, 1]
    assert len(found.labels.unique()) == 4
    torch.testing.assert_close(found.prototypes.norm(dim=1), torch.ones(4))
    assert found.concentrations.mean().item() == pytest.approx(0.1)


def test_the_number_of_threads_changes_no_bit() -> None:
    rows = F.normalize(torch.randn(900, 64, generator=torch.Generator().manual_seed(0)), dim=1)
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append(cluster(rows, 16, temperature=0.1, alpha=10, seed=0))
    assert torch.equal(found[0].prototypes, found[1].prototypes)
    assert torch.equal(found[0].concentrations, found[1].concentrations)
    assert torch.equal(found[0].labels, found[1].labels)
    other = cluster(rows, 16, temperature=0.1, alpha=10, seed=1)
    assert not torch.equal(other.labels, found[0].labels)


@pytest.mark.filterwarnings("error")
def test_samples_that_are_all_alike_still_give_a_loss() -> None:
    found = cluster(torch.eye(3)[:1].repeat(8, 1), 4, temperature=0.1, alpha=10, seed=0)
    assert found.prototypes.isfinite().all()
    assert found.concentrations.tolist() == pytest.approx([0.1] * 4)


def test_a_key_encoder_that_is_not_finite_is_named() -> None:
    client = client_of(round=3)
    state, net, _, views = opened(SMALL, client)
    next(state.moco.key.parameters()).data.fill_(math.nan)
    with pytest.raises(TrainingError, match=r"client 0, round 3: the key encoder gives no finite numbers: lower train\.lr"):
        SMALL.loss(state, net, views)


@pytest.mark.parametrize("prototypes", [(), (1,), (8, 1)])
def test_fewer_than_two_prototypes_are_refused(prototypes: tuple[int, ...]) -> None:
    with pytest.raises(
        InputError, match=r"^strategy: prototypes \[.*\] leave nothing to tell apart: give counts of 2 or more$"
    ):
        experiment_of({"name": "fedprotocl", "prototypes": prototypes, "queue": 16})


def test_a_queue_of_no_whole_steps_is_refused() -> None:
    with pytest.raises(InputError, match="a queue of 24 is no multiple of the 16 keys"):
        experiment_of({"name": "fedprotocl", "queue": 24})


@pytest.mark.parametrize("strategy", [{"name": "fedprotocl"}, {"name": "fedx", "base": "protocl"}])
def test_a_client_with_fewer_samples_than_prototypes_is_named_before_the_first_round(strategy: dict[str, Any]) -> None:
    expected = (
        r"^strategy: 32 prototypes are more than the 20 training samples of client 0: "
        r"lower prototypes, or give every client more \(data\.min_partition_size\)$"
    )
    with pytest.raises(InputError, match=expected):
        simulate(experiment_of(strategy))


@pytest.mark.slow
def test_as_many_samples_as_prototypes_will_do() -> None:
    history = simulate(experiment_of({"name": "fedprotocl", "prototypes": "20", "queue": 16, "warm_up": 0}, rounds=1))
    assert history.metrics[1]["clients_failed"] == 0


FEDX = {"name": "fedx", "base": "protocl", "base_options": {"prototypes": (4, 8), "warm_up": 0, "queue": 16}}


@pytest.mark.slow
def test_fedx_takes_it_as_a_base() -> None:
    experiment = experiment_of(FEDX)
    row = simulate(experiment).metrics[2]
    terms = ["local_contrastive", "prototype_contrastive", "global_contrastive", "local_relational", "global_relational"]
    assert all(row[term] > 0 for term in terms)
    assert row["loss"] == pytest.approx(sum(row[term] for term in terms))


def test_fedx_on_it_is_the_same_from_flat_config_and_from_toml(tmp_path: Any) -> None:
    experiment = experiment_of(FEDX)
    file = tmp_path / "fedx.toml"
    file.write_text(experiment.to_toml())
    rest, base = parts(experiment)
    assert base == ProtoCL(temperature=0.1, prototypes=(4, 8), warm_up=0, queue=16)
    for again in (Experiment.from_flat(experiment.to_flat()), Experiment.from_toml(file)):
        assert parts(again) == (rest, base)


def parts(experiment: Experiment) -> tuple[dict[str, Any], object]:
    """The tables of an experiment but for its base's options, which a flat config holds as text, and the base itself."""
    tables = experiment.to_tables()
    return tables, make_base("protocl", tables["strategy"].pop("base_options"), temperature=0.1)


@pytest.mark.slow
def test_clients_of_unequal_size_take_part() -> None:
    data = {"clients": 3, "partition": "dirichlet", "alpha": 0.3, "min_partition_size": 10, "train_limit": 120}
    experiment = experiment_of({"name": "fedprotocl", "prototypes": (2, 8), "warm_up": 0, "queue": 16}, epochs=2, **data)
    sizes = {len(experiment.federation().client_train(client)) for client in range(3)}
    assert len(sizes) > 1
    row = simulate(experiment).metrics[2]
    assert (row["clients_ok"], row["clients_failed"]) == (3, 0)
    assert row["prototype_contrastive"] > 0


@pytest.mark.slow
def test_a_probe_of_the_trained_encoder_beats_that_of_the_random_one() -> None:
    data = {"clients": 5, "partition": "dirichlet", "alpha": 0.5, "self_balancing": True}
    train = {"epochs": 3, "batch_size": 32, "lr": 0.03}
    nets = {"nets": "cnn", "net_options": {"cnn": {"channels": [16, 32], "hidden": 64}}}
    looked_at = {"evaluate_every": 5, "evaluate_clients": 0, "evaluation": {"label_shares": []}}
    history = simulate(Experiment(strategy="fedprotocl", rounds=5, data=data, train=train, **looked_at, **nets))
    assert history.metrics[5]["accuracy"] > history.metrics[0]["accuracy"] + 0.04
