"""Data sets that come with libraries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedkd.base.errors import InputError
from fedkd.base.garbage import collector_away
from fedkd.data.options import Options
from fedkd.data.source import Source, hold_out

#: Of the recordings of exercises: 2 seconds at 50 Hz.
WINDOW = 100


def digits(path: str, options: Options) -> Source:
    """Scikit-learn's: 1797 handwritten digits of 8x8 pixels."""
    _refuse_options("digits", "scikit-learn", path, options)
    with collector_away():
        from sklearn.datasets import load_digits

    pixels, numbers = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).mul(255 / 16).round().to(torch.uint8).view(-1, 1, 8, 8)  # pixels were 0..16
    return _held_out("digits", images, numbers, [str(digit) for digit in range(10)])


def breast_cancer(path: str, options: Options) -> Source:
    """Scikit-learn's: 569 tumours by 30 measures of their cells' nuclei, malignant or benign."""
    _refuse_options("breast_cancer", "scikit-learn", path, options)
    from sklearn.datasets import load_breast_cancer

    loaded: Any = load_breast_cancer()
    return _held_out("breast_cancer", torch.from_numpy(loaded.data).float(), loaded.target, loaded.target_names)


def wine(path: str, options: Options) -> Source:
    """Scikit-learn's: 178 wines of three growers by 13 chemical measures."""
    _refuse_options("wine", "scikit-learn", path, options)
    from sklearn.datasets import load_wine

    loaded: Any = load_wine()
    return _held_out("wine", torch.from_numpy(loaded.data).float(), loaded.target, loaded.target_names)


def shoulder_exercises(path: str, options: Options) -> Source:
    """Seglearn's: seven shoulder exercises by ten people, as a smartwatch measured them (Burns et al., arXiv 1802.01489).

    Windows of 2 seconds, 100 times of 3 axes of acceleration and 3 of rotation. The last fifth of each recording is for tests;
    whose a training window is stands in ``groups``.
    """
    _refuse_options("shoulder_exercises", "seglearn", path, options)
    try:
        from seglearn.datasets import load_watch
    except ImportError:
        raise InputError("data.source 'shoulder_exercises' comes with seglearn: pip install 'fedkd[sets]'") from None
    watch = load_watch()
    train, test = (_windows(watch["X"], last=last) for last in (False, True))
    labels = torch.from_numpy(np.asarray(watch["y"])).long()
    groups = torch.from_numpy(np.unique(watch["subject"], return_inverse=True)[1]).long()
    names = tuple(str(name) for name in watch["y_labels"])
    return Source("shoulder_exercises", train[0], labels[train[1]], test[0], labels[test[1]], names, groups[train[1]])


def _windows(recordings: Sequence[Any], *, last: bool) -> tuple[Tensor, Tensor]:
    """Windows (N, L, F) of the last fifth of each recording (T, F), or of what is before; and their recordings (N,)."""
    windows, numbers = [], []
    for number, recording in enumerate(recordings):
        cut = len(recording) * 4 // 5
        part = recording[cut:] if last else recording[:cut]
        count = len(part) // WINDOW
        windows.append(np.asarray(part[: count * WINDOW], np.float32).reshape(count, WINDOW, -1))
        numbers += [number] * count
    return torch.from_numpy(np.concatenate(windows)), torch.tensor(numbers)


def _held_out(name: str, inputs: Tensor, numbers: Any, names: Sequence[Any]) -> Source:
    labels = torch.from_numpy(numbers).to(torch.int64)
    train, test = hold_out(len(labels), 0.2)
    classes = tuple(str(each) for each in names)
    return Source(name, inputs[train], labels[train], inputs[test], labels[test], classes)


def _refuse_options(name: str, library: str, path: str, options: Options) -> None:
    if path:
        raise InputError(f"data.path = {path!r}: {name!r} comes with {library}: leave data.path out")
    options.refuse_but(what=f"{name!r} comes with {library}")
