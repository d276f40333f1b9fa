from __future__ import annotations

import gzip
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedkd.base.errors import InputError
from fedkd.data import KINDS, Samples, Source, load_source, normalise
from fedkd.data.idx import DEBIAN_FASHION_MNIST, has_idx_files
from fedkd.data.source import hold_out
from fedkd.experiment.algorithm.sections import Training
from fedkd.experiment.algorithm.train import Batch
from fedkd.experiment.algorithm.work import Work


def write_idx(path: Path, values: torch.Tensor) -> None:
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    path.write_bytes(gzip.compress(bytes((0, 0, 8, values.dim())) + sizes + values.to(torch.uint8).numpy().tobytes()))


def write_idx_folder(folder: Path) -> Path:
    for split, count in (("train", 6), ("t10k", 2)):
        write_idx(folder / f"{split}-images-idx3-ubyte.gz", torch.arange(count * 4).view(count, 2, 2))
        write_idx(folder / f"{split}-labels-idx1-ubyte.gz", torch.arange(count))
    return folder


def test_digits_are_scaled_to_bytes_and_cut_alike_every_time() -> None:
    digits = load_source("digits")
    assert digits.train_inputs.shape == (1438, 1, 8, 8)
    assert digits.test_inputs.shape == (359, 1, 8, 8)
    assert torch.unique(digits.train_inputs).tolist() == [round(level * 255 / 16) for level in range(17)]
    assert digits.classes == tuple("0123456789")
    assert load_source("digits", path="") is digits, "loaded once per process"


def test_the_cut_without_a_test_split_covers_everything_once() -> None:
    train, test = hold_out(10, 0.2)
    assert (len(train), len(test)) == (8, 2)
    assert torch.cat([train, test]).sort().values.tolist() == list(range(10))


def test_idx_files_from_a_path(tmp_path: Path) -> None:
    source = load_source("fashion_mnist", path=str(write_idx_folder(tmp_path)))
    assert source.train_inputs.shape == (6, 1, 2, 2)
    assert source.train_inputs[1].flatten().tolist() == [4, 5, 6, 7]
    assert source.test_labels.tolist() == [0, 1]
    assert source.classes[9] == "Ankle boot"


def test_broken_idx_files_are_named(tmp_path: Path) -> None:
    write_idx_folder(tmp_path)
    images = tmp_path / "t10k-images-idx3-ubyte.gz"
    images.write_bytes(gzip.compress(gzip.decompress(images.read_bytes())[:-1]))
    with pytest.raises(InputError, match=r"t10k-images-idx3-ubyte\.gz.* cut short"):
        load_source("fashion_mnist", path=str(tmp_path))
    images.write_text("no gzip")
    with pytest.raises(InputError, match="cannot read"):
        load_source("fashion_mnist", path=str(tmp_path))
    images.unlink()
    with pytest.raises(InputError, match="lacks t10k-images-idx3-ubyte"):
        load_source("fashion_mnist", path=str(tmp_path))


@pytest.mark.slow
@pytest.mark.skipif(not has_idx_files(DEBIAN_FASHION_MNIST), reason="needs Debian's dataset-fashion-mnist")
def test_fashion_mnist_of_debian() -> None:
    source = load_source("fashion_mnist")
    assert source.train_inputs.shape == (60_000, 1, 28, 28)
    assert torch.bincount(source.test_labels).tolist() == [1000] * 10
    assert (round(source.moments.mean.item(), 4), round(source.moments.std.item(), 4)) == (0.2860, 0.3530)


def test_a_source_and_a_batch_are_read_by_their_earlier_names() -> None:
    source = load_source("digits")
    assert source.train_images is source.train_inputs and source.test_images is source.test_inputs
    samples = Samples(source.train_inputs, source.train_labels, torch.arange(4), source.kind, source.moments, 10)
    batch = Batch(samples, torch.arange(2), Work(Training(), 0.1, torch.device("cpu"), "", "here"), 0)
    assert batch.images is batch.inputs


def test_channel_moments_by_hand() -> None:
    # the first channel is half 0, half 255; the second is constant
    images = torch.tensor([[0, 255], [51, 51]], dtype=torch.uint8).view(1, 2, 1, 2)
    mean, std = KINDS["image"].measure(images, torch.arange(len(images)))
    torch.testing.assert_close(mean, torch.tensor([0.5, 0.2]))
    torch.testing.assert_close(std, torch.tensor([0.5, 1.0]))
    assert normalise(images, mean, std).flatten().tolist() == pytest.approx([-1, 1, 0, 0], abs=1e-6)
    assert normalise(images, mean, std, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_the_content_hash_follows_the_content_alone(toy: Source) -> None:
    other = toy.train_inputs.clone()
    other[3, 0, 0, 0] += 1
    assert replace(toy, name="another name").content_hash == toy.content_hash
    assert replace(toy, train_inputs=other).content_hash != toy.content_hash
    assert replace(toy, classes=("d", "c", "b", "a")).content_hash != toy.content_hash, "labels mean their names"
    assert replace(toy, groups=None).content_hash != toy.content_hash


def test_a_source_checks_itself(toy: Source) -> None:
    with pytest.raises(InputError, match=r"labels run from 0 to 3, must lie in 0\.\.1"):
        replace(toy, classes=("a", "b"))
    with pytest.raises(InputError, match="must be uint8"):
        replace(toy, train_inputs=toy.train_inputs.int())
    with pytest.raises(InputError, match=r"train samples are \(1, 4, 4\) but test samples"):
        replace(toy, test_inputs=toy.test_inputs[..., :2])
    with pytest.raises(InputError, match=r"labels run from -2 to 3, must lie in 0\.\.3, or be -1 where there is no label"):
        replace(toy, train_labels=torch.where(toy.train_labels == 1, -2, toy.train_labels))
    with pytest.raises(InputError, match="no test sample has a label"):
        replace(toy, test_labels=torch.full((8,), -1))
    with pytest.raises(InputError, match="two classes have the same name"):
        replace(toy, classes=("a", "b", "c", "a"))


def test_bad_names_and_paths(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown data\.source 'cifar1': did you mean 'cifar10'"):
        load_source("cifar1")
    with pytest.raises(InputError, match="does not exist"):
        load_source("cifar10", path=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="does not exist"):
        load_source("./nowhere")
    with pytest.raises(InputError, match=r"leave data\.path"):
        load_source("digits", path=str(tmp_path))


@pytest.mark.slow
def test_an_unreachable_hub_is_one_clear_line() -> None:
    code = "from fedkd.data import load_source\nload_source('nobody/nothing')"
    environment = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "InputError: cannot load 'nobody/nothing' from the Hugging Face hub" in done.stderr
    assert "or set data.path to a local copy" in done.stderr.strip().splitlines()[-1]


def test_an_installed_package_may_bring_a_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entry point group "fedkd.data": a name -> a function that gives a Source."""
    from importlib.metadata import EntryPoint

    import fedkd.data.sources as module

    point = EntryPoint("letters", "fedkd.data.sources:brought", "fedkd.data")
    monkeypatch.setattr(module, "brought", lambda: load_source("digits"), raising=False)
    monkeypatch.setattr(
        module, "entry_points", lambda group, name: [point] if (group, name) == ("fedkd.data", "letters") else []
    )
    assert load_source("letters") is load_source("digits")
