"""Sources by name: the sets that come with libraries and systems, files of a user's own, sets of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path

from fedkd.base.errors import unknown
from fedkd.data.array_files import array_reader
from fedkd.data.embedded import breast_cancer, digits, shoulder_exercises, wine
from fedkd.data.options import HELD_OUT, Options
from fedkd.data.source import Source, with_channels
from fedkd.data.word_languages import word_languages


def load_source(
    name: str,
    *,
    path: str = "",
    layout: str = "",
    channels: str = "",
    image_column: str = "",
    feature_columns: Sequence[str] = (),
    label_column: str = "",
    client_column: str = "",
    missing: str = "",
    tokens: str = "",
    length: int = 0,
    held_out: float = HELD_OUT,
) -> Source:
    """Load a data set: once per process, and again when its files have changed.

    Args:
        name: one of ``NAMED`` such as ``digits``, a name in entry point group "fedkd.data", a Hugging Face id
            (``owner/name``) or a local path.
        path: where the files are, when not in their usual place. The network is asked only where no file is local.
        layout: what the levels of image folders mean, e.g. ``"split/client/class"``; found by itself where it is clear.
        channels: ``"grey"`` or ``"colour"`` reads all images so; else they are in colour if one of them is.
        image_column: the column of the images; found by itself where only one can be it. Likewise ``label_column``.
        feature_columns: the columns that make up a sample; empty: all but those of labels and clients.
        client_column: the column that says whose a sample is, for ``partition = "natural_id"``.
        missing: ``"mean"`` fills missing values with the training mean, ``"drop"`` leaves their rows out; empty: refuse them.
        tokens: how a column of text is read: by ``"characters"``, or by the tokenizer.json at this path.
        length: how many tokens a text has, padded or cut; 0: as the longest training text, at most 256.
        held_out: share of the labelled samples that become the test split of a set without one; 0: it has no test samples.

    Raises:
        InputError: an unknown name, a missing path, files that hold no data set, or columns that do not fit.
    """
    for installed in entry_points(group="fedkd.data", name=name):  # a package's function () -> Source
        source: Source = installed.load()()
        return with_channels(source, channels)
    options = Options(
        layout=layout,
        channels=channels,
        image_column=image_column,
        feature_columns=tuple(feature_columns),
        label_column=label_column,
        client_column=client_column,
        missing=missing,
        tokens=tokens,
        length=length,
        held_out=held_out,
    )
    return _load(name, path, options, source_stamp(name, path, tokens))


def source_stamp(name: str, path: str = "", tokens: str = "") -> str:
    """A fingerprint of the files that ``load_source`` would read: equal as long as none of them changes. Empty for none."""
    from fedkd.data.columns.texts import CHARACTERS
    from fedkd.data.stamp import stamp

    places = [path or name] if path or _is_local(name) else []
    places += [tokens] if tokens not in ("", CHARACTERS) else []
    return "".join(stamp(Path(place).expanduser()) for place in places)


def _is_local(name: str) -> bool:
    return name not in NAMED and (
        name.startswith((".", "/", "~")) or name.endswith((".parquet", ".csv", ".npz")) or Path(name).expanduser().exists()
    )


@lru_cache(maxsize=8)
def _load(name: str, path: str, options: Options, stamp: str) -> Source:
    if name in NAMED:
        return with_channels(NAMED[name](path, options), options.channels)
    if not _is_local(name) and not path and name.count("/") != 1:
        raise unknown("data.source", name, NAMED, cure=", a Hugging Face id owner/name, or a local path")
    return _from_files(name, path or (name if _is_local(name) else ""), name, options)


def _from_files(name: str, path: str, hub_id: str, options: Options) -> Source:
    """From the files at a path, else from the hub."""
    from fedkd.data.columns import read_source
    from fedkd.data.tables import hub_tables, local_tables

    place = Path(path).expanduser()
    if path and (read := array_reader(place, options.held_out)):
        options.refuse_but(what="the files hold arrays, without columns")
        return with_channels(read(name), options.channels)
    return read_source(name, local_tables(place, options.layout) if path else hub_tables(hub_id), options)


def _fashion_mnist(path: str, options: Options) -> Source:
    from fedkd.data.idx import DEBIAN_FASHION_MNIST, FASHION_MNIST_CLASSES, has_idx_files, read_idx_source

    folder = Path(path).expanduser() if path else DEBIAN_FASHION_MNIST
    if has_idx_files(folder):
        return read_idx_source("fashion_mnist", folder, FASHION_MNIST_CLASSES)
    return _from_files("fashion_mnist", path, "zalando-datasets/fashion_mnist", options)


def _cifar10(path: str, options: Options) -> Source:
    return _from_files("cifar10", path, "uoft-cs/cifar10", options)


NAMED: dict[str, Callable[[str, Options], Source]] = {
    "digits": digits,
    "breast_cancer": breast_cancer,
    "wine": wine,
    "fashion_mnist": _fashion_mnist,
    "cifar10": _cifar10,
    "shoulder_exercises": shoulder_exercises,
    "word_languages": word_languages,
}
