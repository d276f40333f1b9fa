"""Sources by name: the sets that come with libraries and systems, files of a user's own, sets of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path

import torch

from fedkd.base.errors import InputError, unknown
from fedkd.data.source import Options, Source, hold_out, with_channels


def load_source(
    name: str,
    *,
    path: str = "",
    image_column: str = "",
    label_column: str = "",
    natural_column: str = "",
    layout: str = "",
    channels: str = "",
) -> Source:
    """Load a data set: once per process, and again when its files have changed.

    Args:
        name: ``digits``, ``fashion_mnist``, ``cifar10``, a name in entry point group "fedkd.data", a Hugging Face id
            (``owner/name``) or a local path.
        path: where the files are, when not in their usual place. The network is asked only where no file is local.
        image_column: the column of the images; found by itself where only one can be it. Likewise ``label_column``.
        natural_column: the column that says whose a sample is, for ``partition = "natural_id"``.
        layout: what the levels of image folders mean, e.g. ``"split/client/class"``; found by itself where it is clear.
        channels: ``"grey"`` or ``"colour"`` reads all images so; else they are in colour if one of them is.

    Raises:
        InputError: an unknown name, a missing path, files that are no images, or columns that do not fit.
    """
    for installed in entry_points(group="fedkd.data", name=name):  # a package's function () -> Source
        source: Source = installed.load()()
        return with_channels(source, channels)
    options = Options(image_column, label_column, natural_column, layout, channels)
    return _load(name, path, options, source_stamp(name, path))


def source_stamp(name: str, path: str = "") -> str:
    """A fingerprint of the files that ``load_source`` would read: equal as long as none of them changes. Empty for none."""
    from fedkd.data.stamp import stamp

    if path or _is_local(name):
        return stamp(Path(path or name).expanduser())
    return ""


def _is_local(name: str) -> bool:
    return name not in NAMED and (
        name.startswith((".", "/", "~")) or name.endswith(".parquet") or Path(name).expanduser().exists()
    )


@lru_cache(maxsize=8)
def _load(name: str, path: str, options: Options, stamp: str) -> Source:
    if name in NAMED:
        return with_channels(NAMED[name](path, options), options.channels)
    if not _is_local(name) and not path and name.count("/") != 1:
        raise unknown("data.source", name, NAMED, cure=", a Hugging Face id owner/name, or a local path")
    return _from_tables(name, path or (name if _is_local(name) else ""), name, options)


def _from_tables(name: str, path: str, hub_id: str, options: Options) -> Source:
    from fedkd.data.columns import read_source
    from fedkd.data.tables import hub_tables, local_tables

    found = local_tables(Path(path).expanduser(), options.layout) if path else hub_tables(hub_id)
    return read_source(name, found, options)


def _digits(path: str, options: Options) -> Source:
    if path or any(options[:-1]):
        raise InputError("data.source 'digits' comes with scikit-learn: leave data.path, data.layout and the column names out")
    from sklearn.datasets import load_digits

    pixels, numbers = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).mul(255 / 16).round().to(torch.uint8).view(-1, 1, 8, 8)  # pixels were 0..16
    labels = torch.from_numpy(numbers).to(torch.int64)
    train, test = hold_out(len(labels), 0.2)
    names = tuple(str(digit) for digit in range(10))
    return Source("digits", images[train], labels[train], images[test], labels[test], names)


def _fashion_mnist(path: str, options: Options) -> Source:
    from fedkd.data.idx import DEBIAN_FASHION_MNIST, FASHION_MNIST_CLASSES, has_idx_files, read_idx_source

    folder = Path(path).expanduser() if path else DEBIAN_FASHION_MNIST
    if has_idx_files(folder):
        return read_idx_source("fashion_mnist", folder, FASHION_MNIST_CLASSES)
    return _from_tables("fashion_mnist", path, "zalando-datasets/fashion_mnist", options)


def _cifar10(path: str, options: Options) -> Source:
    return _from_tables("cifar10", path, "uoft-cs/cifar10", options)


NAMED: dict[str, Callable[[str, Options], Source]] = {
    "digits": _digits,
    "fashion_mnist": _fashion_mnist,
    "cifar10": _cifar10,
}
