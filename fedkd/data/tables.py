"""Finding a data set's tables: parquet files, a saved Hugging Face data set, folders of images, or the hub.

Each split is a list of Arrow tables, one a file; Hugging Face's own description of the columns, where there is one, is in
a table's metadata.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedkd.base.errors import InputError
from fedkd.data.folders import SUFFIXES, files_below, is_image, read_folders, unwrap
from fedkd.data.layout import some

Table = Any  # pyarrow.Table; pyarrow is imported where it is used
SHARD = re.compile(r"(-\d+-of-\d+|[-_.]?\d+)+$")  # what a file's name has beside its split's: train-00000-of-00002
ARCHIVES = (".7z", ".gz", ".rar", ".tar", ".tgz", ".zip")
NOT_READ = (".arrow", ".csv", ".h5", ".hdf5", ".json", ".jsonl", ".mat", ".npy", ".npz", ".pkl", ".pt", ".tfrecord", ".tsv")
WRITE_A_FUNCTION = (
    "write a function that returns fedkd.data.Source(name=..., train_inputs=uint8 (N, C, H, W), train_labels=int64 (N,), "
    'test_inputs=..., test_labels=..., classes=names) and set data.source = "my_module:function"'
)


@dataclass(frozen=True)
class Splits:
    """The tables of each split by the split's name, and in words how they were found; empty if that goes without saying."""

    tables: dict[str, list[Table]]
    reading: str = ""


def local_tables(path: Path, layout: str = "") -> Splits:
    """The splits found at a local path. No network, nothing written.

    Args:
        path: a file, or a folder; a folder that holds but one other stands for that one.
        layout: what the levels of image folders mean; empty: recognise it.
    """
    if not path.exists():
        raise InputError(f"data path {str(path)!r} does not exist: check data.path and data.source")
    if path.is_file():
        return _only_folders(layout, path, Splits({"train": [_read_file(path)]}))
    inner = unwrap(path)
    if (inner / "dataset_dict.json").exists() or (inner / "state.json").exists():
        return _only_folders(layout, path, _saved(inner))
    files = list(files_below(path))
    if parquet := [file for file in files if file.suffix == ".parquet"]:
        return _only_folders(layout, path, _parquet_splits(path, parquet, files))
    _refuse_other_files(path, files)
    found = read_folders(path, layout)
    return Splits({name: [table] for name, table in found.tables.items()}, found.reading)


def hub_tables(name: str) -> Splits:
    """The splits of a data set on the Hugging Face hub. Needs a network, or the hub's local cache."""
    import logging

    import datasets

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries are no news: the error below says enough
    once = datasets.DownloadConfig(max_retries=1)
    try:
        return _as_tables(datasets.load_dataset(name, download_config=once))
    except Exception as error:  # the hub, the network and the file formats share no narrower class
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"cannot load {name!r} from the Hugging Face hub ({type(error).__name__}: {reason}): "
            "check the id and the network, or set data.path to a local copy"
        ) from error


def _only_folders(layout: str, path: Path, splits: Splits) -> Splits:
    if layout:
        raise InputError(f"data.layout = {layout!r}: {str(path)!r} holds no image folders but tables: leave it out")
    return splits


def _as_tables(loaded: Any) -> Splits:
    """Arrow tables of a ``datasets.Dataset`` or ``DatasetDict``."""
    splits = loaded if isinstance(loaded, dict) else {"train": loaded}
    return Splits({name: [split.with_format("arrow")[:]] for name, split in splits.items()})


def _saved(path: Path) -> Splits:
    import datasets

    try:
        return _as_tables(datasets.load_from_disk(str(path)))
    except Exception as error:  # a broken file leads pyarrow and datasets to errors without a common class
        reason = " ".join(str(error).split())
        raise InputError(f"{str(path)!r} is no readable saved data set: {reason}") from error


def _read_file(path: Path) -> Table:
    if path.suffix == ".parquet":
        return _read_parquet(path)
    kind = "one image" if path.suffix.lower() in SUFFIXES else f"a {path.suffix or 'file without an ending'} file"
    raise InputError(
        f"{str(path)!r} is {kind}; read are parquet files, folders of images and saved Hugging Face data sets; "
        f"for the rest {WRITE_A_FUNCTION}"
    )


def _refuse_other_files(path: Path, files: list[Path]) -> None:
    """Tables and arrays in a kind of file that is not read, and no image beside them."""
    kinds = Counter(file.suffix.lower() for file in files)
    known = sorted(kinds.keys() & {*ARCHIVES, *NOT_READ})
    if known and not any(is_image(file) for file in files):
        there = ", ".join(f"{kinds[kind]} {kind}" for kind in known)
        cure = "unpack archives; " if kinds.keys() & {*ARCHIVES} else ""
        raise InputError(f"{str(path)!r} holds no images but files that are not read ({there}): {cure}{WRITE_A_FUNCTION}")


def _read_parquet(path: Path) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path).read()
    except (OSError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{str(path)!r} is no readable parquet file: {reason}") from error


def _parquet_splits(folder: Path, parquet: list[Path], files: list[Path]) -> Splits:
    """Tables by split: shards of one name belong together; where no name is that of a split, all of them do."""
    from fedkd.data.splits import read_splits

    named: dict[str, list[Path]] = defaultdict(list)
    for file in parquet:
        relative = file.relative_to(folder).with_suffix("")
        named["/".join([*relative.parts[:-1], SHARD.sub("", relative.name)]).strip("/")].append(file)
    said = []
    if len(named) > 1 and not read_splits(named, sure=True) and not any(read_splits([name], sure=True) for name in named):
        said.append(f"{len(parquet)} parquet files are read as one set: {some([file.name for file in parquet])}")
        named = {"train": parquet}
    if others := len(files) - len(parquet):
        said.append(f"left out: {others} files beside the parquet files")
    return Splits({name: [_read_parquet(file) for file in of] for name, of in named.items()}, "; ".join(said))
