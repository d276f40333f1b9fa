"""benchmarks/side_by_side_unsupervised.py: fedkd beside EasyFL's own code, of which the tests need no copy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fedkd.experiment.algorithm.split import Batch

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.fixture
def setting() -> dict[str, Any]:
    """A setting whose clients have four images, and so two batches in each of two rounds."""
    from peers import fedssl

    whole = fedssl.SETTINGS["one step a round"]
    return {**whole, "images": 4, "test_images": 5, "rounds": 2, "train": {**whole["train"], "batch_size": 2}}


@pytest.fixture
def images(setting: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the seed draws of a CIFAR-10 that is noise."""
    from peers import fedssl

    labels = torch.arange(10).repeat(4)
    pictures = torch.randint(256, (40, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    inputs = {"train_inputs": pictures, "test_inputs": pictures}
    source = SimpleNamespace(**inputs, train_labels=labels, test_labels=labels)
    with monkeypatch.context() as patched:
        patched.setattr("fedkd.data.load_source", lambda *_, **__: source)
        fedssl.write_images("", tmp_path / "images.npz", setting, 1)
    return tmp_path / "images.npz"


def test_both_codes_give_a_client_the_same_two_classes(setting: dict[str, Any], images: Path) -> None:
    from peers import fedssl

    federation = fedssl.experiment_of(images, "fedu", setting, 1).run_federation
    with np.load(images) as file:
        pictures, labels, owners = (file[f"train_{name}"] for name in ("images", "labels", "clients"))
    for client in range(setting["clients"]):
        part = federation.client_train(client)
        ours = part.take(torch.arange(len(part)))[0].permute(0, 2, 3, 1).numpy()
        assert {picture.tobytes() for picture in ours} == {picture.tobytes() for picture in pictures[owners == client]}
        assert np.unique(labels[owners == client], return_counts=True)[1].tolist() == [2, 2]


def test_the_views_that_are_handed_over_are_those_that_fedkd_trains_on(
    setting: dict[str, Any], images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peers import fedssl

    fedssl.write_views(fedssl.experiment_of(images, "fedbyol", setting, 1), tmp_path / "views.npy", setting)
    seen, plain = [], Batch.view
    monkeypatch.setattr(Batch, "view", lambda self, number: (seen.append(plain(self, number)), seen[-1])[1])
    fedssl.run_ours(images, "fedbyol", setting, 1)
    handed = np.load(tmp_path / "views.npy")  # (clients, rounds, batches, 2, B, ...)
    assert handed.shape == (5, 2, 2, 2, 2, 3, 32, 32)
    assert (handed.swapaxes(0, 1).reshape(-1, 2, 3, 32, 32) == torch.stack(seen).numpy()).all()


def test_a_nudged_run_has_the_next_rate_that_float32_can_hold(setting: dict[str, Any]) -> None:
    import side_by_side_unsupervised as benchmark

    before, after = (np.float32(each["train"]["lr"]) for each in (setting, benchmark.nudged(setting)))
    assert after > before
    assert np.nextafter(before, np.float32(1)) == after


def test_a_copy_that_is_missing_or_lacks_the_commit_is_named_with_the_cure(tmp_path: Path) -> None:
    import side_by_side_unsupervised as benchmark

    assert benchmark.why_not("").startswith("--code: where your copy of EasyFL lies is not said: git clone https")
    start = f"--code {tmp_path}: there is no git copy of EasyFL that has this commit: git clone https"
    assert benchmark.why_not(str(tmp_path)).startswith(start)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    assert benchmark.why_not(str(tmp_path)).startswith(start)


def test_the_page_shows_the_tables_of_the_committed_rows() -> None:
    import side_by_side_unsupervised as benchmark
    from peers import fedssl

    page = (ROOT / "docs" / "results" / "side_by_side_unsupervised.md").read_text()
    for setting in fedssl.SETTINGS:
        assert benchmark.table(benchmark.there(), setting) in page


@pytest.mark.slow
def test_without_a_copy_the_command_ends_with_one_line() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "side_by_side_unsupervised.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
