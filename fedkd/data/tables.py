"""Finding a data set's tables: parquet and CSV files, a saved Hugging Face data set, folders of images, or the hub.

Each split is a list of Arrow tables, one a file; Hugging Face's own description of the columns, where there is one, is in
a table's metadata.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedkd.base.errors import InputError
from fedkd.data.delimited import DELIMITED, read_delimited
from fedkd.data.folders import SUFFIXES, files_below, is_image, read_folders, unwrap
from fedkd.data.layout import OWNERS, some
from fedkd.data.splits import words_of

Table = Any  # pyarrow.Table; pyarrow is imported where it is used
SHARD = re.compile(r"(-\d+-of-\d+|[-_.]?\d+)+$")  # what a file's name has beside its split's: train-00000-of-00002
ARCHIVES = (".7z", ".gz", ".rar", ".tar", ".tgz", ".zip")
NOT_READ = (".arrow", ".h5", ".hdf5", ".json", ".jsonl", ".mat", ".npy", ".npz", ".pkl", ".pt", ".tfrecord")
#: The column of the clients whose files these are.
OWNER = "fedkd_client"
#: The key of a table's metadata that holds the name of its file.
FILE = b"fedkd_file"
#: That of the paths of the Arrow files whose rows a table has, all of them and in their order.
ARROW_FILES = b"fedkd_arrow_files"
WRITE_A_FUNCTION = (
    "write a function that returns a fedkd.data.Source, or arrays (X, y), a torch Dataset or a pandas frame, "
    'and set data.source = "my_module:function"'
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
    for suffixes in ((".parquet",), DELIMITED):
        found = [file for file in files if file.suffix.lower() in suffixes]
        if found and (suffixes == (".parquet",) or not any(is_image(file) for file in files)):  # a CSV may describe images
            return _only_folders(layout, path, _table_splits(path, found, files))
    _refuse_other_files(path, files)
    read = read_folders(path, layout)
    return Splits({name: [table] for name, table in read.tables.items()}, read.reading)


def hub_tables(name: str) -> Splits:
    """The splits of a data set on the Hugging Face hub. Needs a network, or the hub's local cache."""
    import logging

    import datasets

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries are no news: the error below says enough
    once = datasets.DownloadConfig(max_retries=1)
    try:
        return tables_of(datasets.load_dataset(name, download_config=once))
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


def tables_of(loaded: Any) -> Splits:
    """The Arrow tables of a ``datasets.Dataset`` or ``DatasetDict``."""
    splits = loaded if isinstance(loaded, dict) else {"train": loaded}
    return Splits({name: [split.with_format("arrow")[:]] for name, split in splits.items()})


def _saved(path: Path) -> Splits:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
        splits = loaded if isinstance(loaded, dict) else {"train": loaded}
        found = tables_of(loaded).tables
    except Exception as error:  # a broken file leads pyarrow and datasets to errors without a common class
        reason = " ".join(str(error).split())
        raise InputError(f"{str(path)!r} is no readable saved data set: {reason}") from error
    files = {name: json.dumps([file["filename"] for file in split.cache_files]).encode() for name, split in splits.items()}
    return Splits({name: [_with_metadata(table, ARROW_FILES, files[name]) for table in held] for name, held in found.items()})


def _with_metadata(table: Table, key: bytes, value: bytes) -> Table:
    return table.replace_schema_metadata({**(table.schema.metadata or {}), key: value})


def _read_file(path: Path) -> Table:
    """The table of a file, which says in its metadata which one."""
    suffix = path.suffix.lower()
    if suffix == ".parquet" or suffix in DELIMITED:
        table = _read_parquet(path) if suffix == ".parquet" else read_delimited(path)
        twice = sorted(name for name, count in Counter(table.column_names).items() if count > 1)
        if twice:
            raise InputError(f"{str(path)!r} has two columns called {twice[0]!r}: rename one")
        return _with_metadata(table, FILE, path.name.encode(errors="replace"))
    kind = "one image" if suffix in SUFFIXES else f"a {path.suffix or 'file without an ending'} file"
    raise InputError(
        f"{str(path)!r} is {kind}; read are parquet, CSV and .npz files, folders of images and saved Hugging Face data sets; "
        f"for the rest {WRITE_A_FUNCTION}"
    )


def _refuse_other_files(path: Path, files: list[Path]) -> None:
    """Tables and arrays in a kind of file that is not read, and no image beside them."""
    kinds = Counter(file.suffix.lower() for file in files)
    known = sorted(kinds.keys() & {*ARCHIVES, *NOT_READ})
    if known and not any(is_image(file) for file in files):
        there = ", ".join(f"{kinds[kind]} {kind}" for kind in known)
        cure = "unpack archives; " if kinds.keys() & {*ARCHIVES} else ""
        cure += "name the .npz itself in data.source; " if ".npz" in kinds else ""
        cure += "call arrays train_inputs.npy, train_labels.npy, test_inputs.npy ...; " if ".npy" in kinds else ""
        raise InputError(f"{str(path)!r} holds no images but files that are not read ({there}): {cure}{WRITE_A_FUNCTION}")


def _read_parquet(path: Path) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path).read()
    except (OSError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{str(path)!r} is no readable parquet file: {reason}") from error


def _table_splits(folder: Path, found: list[Path], files: list[Path]) -> Splits:
    """Tables by split: shards of one name belong together; where no name is that of a split, all of them do.

    Files that are called after clients, ``hospital_1.csv``, say whose their rows are.
    """
    from fedkd.data.splits import read_splits

    named: dict[str, list[Path]] = defaultdict(list)
    for file in found:
        relative = file.relative_to(folder).with_suffix("")
        named["/".join([*relative.parts[:-1], SHARD.sub("", relative.name)]).strip("/")].append(file)
    said = []
    if others := len(files) - len(found):
        said.append(f"left out: {others} files beside the {found[0].suffix.removeprefix('.')} files")
    clients = [file.stem for file in found]
    if (
        len(found) > 1
        and all(any(map(OWNERS.fullmatch, words_of(name))) for name in clients)
        and len({*clients}) == len(clients)
    ):
        said.append(f"its files are read as those of clients: {some(clients)}")
        return Splits({"train": [_owned(_read_file(file), file.stem) for file in found]}, "; ".join(said))
    if len(named) > 1 and not read_splits(named, sure=True) and not any(read_splits([name], sure=True) for name in named):
        kind = found[0].suffix.removeprefix(".")
        said.insert(0, f"{len(found)} {kind} files are read as one set: {some([file.name for file in found])}")
        named = {"train": found}
    return Splits({name: [_read_file(file) for file in of] for name, of in named.items()}, "; ".join(said))


def _owned(table: Table, owner: str) -> Table:
    """The table with a column that says whose its rows are."""
    import pyarrow

    features = json.loads((table.schema.metadata or {}).get(b"huggingface", b'{"info": {"features": {}}}'))
    features["info"].setdefault("features", {})[OWNER] = {"_type": "Owner"}
    owned = table.append_column(OWNER, pyarrow.array([owner] * len(table), pyarrow.string()))
    return _with_metadata(owned, b"huggingface", json.dumps(features).encode())
