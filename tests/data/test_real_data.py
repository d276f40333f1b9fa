"""Two rounds on real Fashion-MNIST."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fedkd import Experiment, simulate
from fedkd.data.idx import DEBIAN_FASHION_MNIST, has_idx_files

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not has_idx_files(DEBIAN_FASHION_MNIST),
        reason=f"no Fashion-MNIST in {DEBIAN_FASHION_MNIST}: install Debian's dataset-fashion-mnist",
    ),
]
DATA = {"source": "fashion_mnist", "clients": 4, "alpha": 1.0}


def rows(strategy: str, **changes: Any) -> list[dict[str, Any]]:
    return simulate(Experiment(strategy=strategy, rounds=2, **changes)).metrics


def test_fedavg_learns() -> None:
    train = {"lr": 0.05, "batch_size": 32}
    start, first, second = rows("fedavg", nets="cnn", train=train, data={**DATA, "train_limit": 4000})
    assert start["accuracy"] < 0.25
    assert 0.4 < first["accuracy"] < second["accuracy"]
    assert second["client_accuracy"] > 0.4
    assert second["loss"] < first["loss"]
    assert first["bytes_up"] == first["bytes_down"] == 4 * 4 * 52_138


def test_fedx_trains_a_resnet_in_bfloat16() -> None:
    settings = {"nets": "resnet18", "net_options": {"resnet18": {"width": 4}}, "train": {"precision": "bf16", "lr": 0.05}}
    start, first, second = rows("fedx", **settings, data={**DATA, "train_limit": 1000, "test_limit": 500})
    parts = ("local_contrastive", "global_contrastive", "local_relational", "global_relational")
    for row in (first, second):
        assert all(math.isfinite(row[part]) for part in parts)
        assert row["loss"] == pytest.approx(sum(row[part] for part in parts), rel=1e-5)
        assert min(row["probe_accuracy"], row["knn_accuracy"], row["client_accuracy"]) > 0.2  # chance is 0.1
    assert second["local_contrastive"] < first["local_contrastive"]
    assert start["clients_ok"] == 0 and second["clients_ok"] == 4
