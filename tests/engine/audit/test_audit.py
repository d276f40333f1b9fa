"""The audit: its arithmetic by hand, shadows that are the engine's own clients, and leaks where there are leaks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_cli import Fedkd, fedkd  # noqa: F401 - a fixture
from torch import nn

from fedkd import Experiment, InputError, simulate
from fedkd.engine.audit.audit import AS_UPLOADED, QUERIED, audit
from fedkd.engine.audit.label_shares import estimate, leakage
from fedkd.engine.audit.membership import attack, likelihood_ratios, log_odds, share_found
from fedkd.engine.audit.shadows import shadow_run
from fedkd.engine.audit.surrogate import smoother
from fedkd.engine.audit.views import VIEWS
from fedkd.results.uploads import read_tables, upload_files


def experiment(**changes: Any) -> Experiment:
    data = {"clients": 3, "partition": "iid", "train_limit": 160, "public": 40, "test_limit": 20, **changes.pop("data", {})}
    nets = {"nets": "mlp", "net_options": {"mlp": {"hidden": [16]}}}
    train = {"lr": 0.1, "momentum": 0.9, "batch_size": 16, "epochs": 2}
    base = {"strategy": "fedmd", "rounds": 2, "train": train, "data": data, "record": {"uploads": True}, **nets}
    return Experiment(**{**base, **changes})


def thin(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))


# The arithmetic


def test_log_odds_are_of_the_softmax() -> None:
    logits, labels = torch.tensor([[[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]]]), torch.tensor([0, 2])
    p = logits.softmax(2)[0, [0, 1], labels]
    assert torch.allclose(log_odds(logits, labels)[0], (p / (1 - p)).log())


def test_a_likelihood_ratio_by_hand() -> None:
    """One sample; nets that trained on it are sure of it by 3 and 5, the others by 0 and 2: variances of 2, means 4 and 1."""
    shadows, held = torch.tensor([[3.0], [5.0], [0.0], [2.0]]), torch.tensor([[True], [True], [False], [False]])
    ratio = likelihood_ratios(torch.tensor([[4.0], [2.5]]), shadows, held)
    assert torch.allclose(ratio, torch.tensor([[9 / 4], [0.0]]))


def test_a_sample_that_no_shadow_held_is_left_out() -> None:
    shadows, held = torch.tensor([[3.0, 1.0], [5.0, 1.0]]), torch.tensor([[True, False], [False, False]])
    assert torch.isfinite(likelihood_ratios(shadows, shadows, held)).tolist() == [[False, False]] * 2
    found = attack(torch.tensor([1.0, 2.0, torch.nan]), torch.tensor([False, True, True]))
    assert (found.members, found.non_members, found.auc.value) == (1, 1, 1.0)


def test_no_more_others_pass_the_threshold_than_is_said() -> None:
    outside = np.arange(1000.0)
    for rate in (0.001, 0.01, 0.5):
        inside = np.array([999.0 - rate * 1000, 999.5 - rate * 1000, 2000.0])
        assert share_found(inside, outside, rate) == pytest.approx(2 / 3)
        threshold = np.sort(outside)[::-1][int(rate * 1000)]
        assert (outside > threshold).mean() == rate


def test_noise_tells_nothing_and_too_few_others_are_said() -> None:
    rng = np.random.default_rng(1)
    found = attack(torch.tensor(rng.normal(size=900)), torch.tensor(rng.random(900) < 0.3))
    assert found.auc.low < 0.5 < found.auc.high
    assert found.true_positives[0.001] is None and found.true_positives[0.01] is not None
    assert found.to_json()["true_positives_at"]["0.001"] is None


def test_a_surrogate_says_of_a_public_sample_what_the_client_said() -> None:
    public = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    said = public.sin()[:, :2].double()
    near = smoother(public, public + 1e-3) @ said
    assert (near - said).abs().max() < 0.1


def test_label_shares_that_predictions_follow_are_found() -> None:
    rng = np.random.default_rng(0)
    truth = torch.tensor(rng.dirichlet(np.ones(4), size=40))
    said = (0.3 * truth + 0.7 / 4).unsqueeze(1)  # leans towards the client's labels
    assert (estimate(said[:10, 0], said[10:, 0], truth[10:]) - truth[:10]).abs().max() < 0.05
    found = leakage(said[:10], truth[:10], said[10:], truth[10:], truth.mean(0))
    assert found.total_variation < 0.02 < 0.2 < found.prior_total_variation and found.kl < found.prior_kl


@pytest.mark.parametrize("name", VIEWS)
def test_every_view_is_a_table_of_the_same_shape(name: str) -> None:
    table = torch.randn(5, 7, 3, generator=torch.Generator().manual_seed(0)).softmax(2)
    assert VIEWS[name](table, torch.Generator().manual_seed(1)).shape == table.shape


# Runs


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"strategy": {"name": "dsfl", "public_per_round": 20}, "participation": 0.7, "uplink": ["float16"]},
        {"strategy": "cronus", "data": {"partition": "dirichlet", "alpha": 1.0, "self_balancing": True}},
        {"strategy": "dsfl", "privacy": {"noise_multiplier": 0.1}, "attack": {"name": "label_flip", "share": 0.4}},
        {"strategy": "cfd", "nets": {"mlp": 0.5, "cnn": 0.5}, "downlink": ["float16"]},
    ],
    ids=["fedmd", "dsfl", "cronus", "noise and attack", "cfd"],
)
def test_a_shadow_run_of_the_same_samples_tells_what_the_engines_clients_uploaded(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    settings = experiment(**changes)
    simulate(settings, out=tmp_path / "run")
    told = shadow_run(settings, settings.functions(), settings.federation(), settings.rounds)  # type: ignore[arg-type]
    recorded = read_tables(upload_files(tmp_path / "run")[settings.rounds])
    tables = [next(table for _, table in named.values()) for named in recorded.values()]
    assert len(told) == len(tables) > 0
    for one, table in zip(told, tables, strict=True):
        assert torch.equal(one.table.sort(0).values, table.double().sort(0).values)  # rows are put in another order


@pytest.mark.slow
def test_an_audit_finds_who_trained_on_what_where_nets_learn_by_heart(fedkd: Fedkd, tmp_path: Path) -> None:  # noqa: F811
    settings = experiment(strategy={"name": "fedmd", "private_epochs": 60}, rounds=1)
    simulate(settings, out=tmp_path / "run")
    done = fedkd(f"fedkd audit {tmp_path / 'run'} --shadows 12")
    assert done.code == 0 and "the clients' own nets, queried" in done.out and "too few others" in done.out
    found = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert (found["clients"], found["shadows"]) == (3, 36)
    assert found["membership"][QUERIED]["auc"]["low"] > 0.55
    sizes = found["membership"][AS_UPLOADED]
    assert (sizes["members"], sizes["non_members"]) == (96, 264)
    again = fedkd(f"fedkd audit {tmp_path / 'run'} --shadows 12 --json")
    assert json.loads(again.out) == found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"record": {}}, "kept no uploads: run it again with record.uploads = true"),
        ({"strategy": "fedavg", "data": {"public": 0}}, "its clients upload no table of logits or probabilities"),
        ({"data": {"partition": "shared"}}, "gives clients no other samples with another seed"),
    ],
    ids=["nothing kept", "weights", "shared"],
)
def test_runs_that_cannot_be_audited_are_refused(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    simulate(experiment(rounds=1, **changes), out=tmp_path / "run")
    with pytest.raises(InputError, match=told):
        audit(tmp_path / "run")


@pytest.mark.slow
def test_nets_of_a_script_are_audited_from_there(tmp_path: Path) -> None:
    settings = experiment(rounds=1, nets=thin, net_options={})
    simulate(settings, out=tmp_path / "run")
    with pytest.raises(InputError, match="functions that only its script has"):
        audit(tmp_path / "run")
    assert audit(tmp_path / "run", settings, shadow_runs=2).shadows == 6


def test_an_audit_needs_a_run_and_shadows(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        audit(tmp_path)
    with pytest.raises(InputError, match="take 2 or more"):
        audit(tmp_path, shadow_runs=1)
