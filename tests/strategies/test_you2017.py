"""You et al. 2017: several teachers, their mean and their votes, on digits."""

from __future__ import annotations

import pytest
import torch
from fedkd.strategies.you2017 import You2017
from public_runs import few_samples, server_of, tiny

from fedkd import Knowledge, simulate
from fedkd.losses import draw_triplets, relation_vote_loss, soft_cross_entropy
from fedkd.nets import Net, features_of
from fedkd.targets import mean_probs


def with_own_nets(server: object, *seeds: int) -> dict[int, Knowledge]:
    """Uploads of nets with weights drawn by these seeds."""
    uploads = {}
    for client, seed in enumerate(seeds):
        weights = server.net("drawn").state_dict()  # type: ignore[attr-defined]
        rng = torch.Generator().manual_seed(seed)
        drawn = {name: torch.randn(tensor.shape, generator=rng) for name, tensor in weights.items()}
        uploads[client] = Knowledge.of("weights", drawn)
    return uploads


@pytest.mark.recomputed("you2017", by="formula")
def test_a_step_descends_the_three_terms_of_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch of all public samples: what is logged is the formula on the nets as they were before the step."""
    experiment = tiny(You2017(relation_weight=0.5, temperature=2.0), train={"batch_size": 64}, data={"public_labels": True})
    server = server_of(experiment)
    uploads = with_own_nets(server, 1, 2)
    student = server.net("student", architecture="mlp", keep=True)
    samples = server.public.samples
    order = torch.randperm(len(samples), generator=server.rng("batches"))
    images = next(server.public.batches(epochs=1, batch_size=64, rng=server.rng("batches"))).inputs  # (B, 1, 8, 8)
    own = student.outputs(images)
    teachers = []
    for upload in uploads.values():
        teacher: Net = server.net("copy")
        teacher.load_state_dict(dict(upload.tensors))
        teachers.append(teacher.eval().outputs(images))
    soft = mean_probs(torch.stack([one.logits for one in teachers]), temperature=2.0).values
    triplets = draw_triplets(len(samples), server.rng("triplets"))
    votes = relation_vote_loss(features_of(own), [features_of(one) for one in teachers], triplets)
    labels = samples.labels[samples.indices][order]
    experiment.strategy.server_update(server, uploads)
    assert server.reported["server_distillation"] == pytest.approx(
        soft_cross_entropy(own.logits, soft, temperature=2.0).item(), rel=1e-4
    )
    assert server.reported["server_relations"] == pytest.approx(0.5 * votes.item(), rel=1e-4)
    assert server.reported["server_cross_entropy"] == pytest.approx(
        torch.nn.functional.cross_entropy(own.logits, labels).item(), rel=1e-4
    )


def test_without_public_labels_there_is_no_cross_entropy() -> None:
    server = server_of(tiny(You2017()))
    server.experiment.strategy.server_update(server, with_own_nets(server, 1, 2))
    assert set(server.reported) == {"server_distillation", "server_relations", "server_loss"}


@pytest.mark.slow
def test_a_student_that_saw_no_label_does_better_than_the_clients_that_teach_it() -> None:
    last = simulate(few_samples(You2017(), server_net="cnn", train={"optimizer": "adam", "lr": 0.003})).metrics[-1]
    assert last["accuracy"] > last["client_main_accuracy"] + 0.03
    assert last["server_relations"] < 0.3  # below the margin: orders are learned
