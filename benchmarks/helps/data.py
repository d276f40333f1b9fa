"""The data of ../when_helps.py, as .npz files: what clients share, and public samples of three kinds, disjoint from these.

images: Fashion-MNIST, each 2 x 2 pixels averaged to one, 14 x 14 are left. 40,000 images for clients, and 2,000 of all
    classes to test on; public are 2,000 others.
signals: seglearn's shoulder exercises, 2 s of a smartwatch's six values, each four times averaged to one: 25 x 6. A fixed
    draw of 1,550 windows for clients, 416 to test on; public are the 327 others.

Public samples that do not fit are as many. Of `other` data: handwritten digits (scikit-learn), enlarged to 14 x 14; or the same
windows from a watch that is worn otherwise (its axes take each other's places, and point the other way). Of `noise`: each
number of a sample is drawn by itself from those that public samples have in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

#: Kind -> whose samples are public: the same data set's, another's, nobody's.
PUBLIC = ("same", "other", "noise")
#: The least that a test split needs to be read; nobody looks at that of public samples.
FEW = 10


def write_data(folder: Path) -> None:
    """Write all files, but those that are there."""
    for kind, make in MAKERS.items():
        if not all(file_of(folder, kind, public).exists() for public in ("", *PUBLIC)):
            folder.mkdir(parents=True, exist_ok=True)
            make(lambda public, *arrays, kind=kind: _write(file_of(folder, kind, public), *arrays))


def file_of(folder: Path, kind: str, public: str = "") -> Path:
    """What clients share, or the public samples of one source."""
    return folder / f"{kind}{public and '_'}{public}.npz"


def drawn_apart(inputs: Tensor, rng: torch.Generator) -> Tensor:
    """Samples (N, ...), each number that of another row at the same place: what single numbers are like is kept, no more."""
    columns = inputs.flatten(1)
    rows = torch.stack([torch.randperm(len(columns), generator=rng) for _ in range(columns.shape[1])], dim=1)
    return columns.gather(0, rows).view_as(inputs)


def worn_otherwise(signals: Tensor) -> Tensor:
    """Signals (N, L, 6), three axes of acceleration and three of rotation: x, y, z become -y, -z, -x."""
    return -signals[:, :, [1, 2, 0, 4, 5, 3]]


def _images(write: Callable[..., None]) -> None:
    from fedkd.data import load_source

    clothes, digits = load_source("fashion_mnist"), load_source("digits")
    images, labels = clothes.train_inputs, clothes.train_labels
    write("", _halved(images[:40000]), labels[:40000], _halved(clothes.test_inputs[:2000]), clothes.test_labels[:2000])
    public = _halved(images[40000:42000])
    write("same", public, labels[40000:42000], public[:FEW], labels[40000 : 40000 + FEW])
    large = F.interpolate(torch.as_tensor(digits.train_inputs).float(), size=(14, 14), mode="bilinear").round().to(torch.uint8)
    write("other", large, digits.train_labels, large[:FEW], digits.train_labels[:FEW])
    noise = drawn_apart(public, torch.Generator().manual_seed(0))
    write("noise", noise, labels[40000:42000], noise[:FEW], labels[40000 : 40000 + FEW])


def _halved(images: Tensor) -> Tensor:
    return F.avg_pool2d(torch.as_tensor(images).float(), 2).round().to(torch.uint8)


def _signals(write: Callable[..., None]) -> None:
    from fedkd.data import load_source

    watch = load_source("shoulder_exercises")
    rng = torch.Generator().manual_seed(0)
    order = torch.randperm(len(watch.train_labels), generator=rng)
    signals, labels = _slower(watch.train_inputs[order]), watch.train_labels[order]
    write("", signals[:1550], labels[:1550], _slower(watch.test_inputs), watch.test_labels)
    public, names = signals[1550:], labels[1550:]
    for source, made in {"same": public, "other": worn_otherwise(public), "noise": drawn_apart(public, rng)}.items():
        write(source, made, names, made[:FEW], names[:FEW])


def _slower(signals: Tensor) -> Tensor:
    count, times, features = signals.shape
    return torch.as_tensor(signals).view(count, times // 4, 4, features).mean(2)


def _write(file: Path, *arrays: Tensor) -> None:
    names = ("x_train", "y_train", "x_test", "y_test")
    np.savez(file, **{name: array.numpy() for name, array in zip(names, arrays, strict=True)})


MAKERS: dict[str, Callable[[Callable[..., None]], None]] = {"images": _images, "signals": _signals}
