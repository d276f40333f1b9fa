"""Finding a data set's tables: parquet files, a saved Hugging Face data set, folders of images, or the hub.

Each split is one Arrow table; Hugging Face's own description of its columns, where there is one, is in its metadata.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from fedkd.errors import InputError

Table = Any  # pyarrow.Table; pyarrow is imported where it is used
SPLIT_IN_NAME = re.compile(r"(?:^|[^a-z])(train|test|validation|valid|val|dev)(?![a-z])")


def local_tables(path: Path) -> dict[str, Table]:
    """The splits found at a local path, by name. No network, nothing written."""
    if not path.exists():
        raise InputError(f"data path {str(path)!r} does not exist: check data.path and data.source")
    if path.is_file():
        return {"train": _read_parquet(path)}
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return _saved(path)
    if files := sorted(path.rglob("*.parquet")):
        return _parquet_splits(path, files)
    return _image_folders(path)


def hub_tables(name: str) -> dict[str, Table]:
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


def _as_tables(loaded: Any) -> dict[str, Table]:
    """Arrow tables of a ``datasets.Dataset`` or ``DatasetDict``."""
    splits = loaded if isinstance(loaded, dict) else {"train": loaded}
    return {name: split.with_format("arrow")[:] for name, split in splits.items()}


def _saved(path: Path) -> dict[str, Table]:
    import datasets

    try:
        return _as_tables(datasets.load_from_disk(str(path)))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{str(path)!r} is no readable saved data set: {error}") from error


def _read_parquet(path: Path) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path).read()
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{str(path)!r} is no readable parquet file: {error}") from error


def _parquet_splits(folder: Path, files: list[Path]) -> dict[str, Table]:
    """Tables by split; a file's split is the last of train, test, ... in its name, else train."""
    import pyarrow

    parts: dict[str, list[Table]] = defaultdict(list)
    for file in files:
        words = SPLIT_IN_NAME.findall(str(file.relative_to(folder)).lower())
        parts[words[-1] if words else "train"].append(_read_parquet(file))
    try:
        return {split: pyarrow.concat_tables(tables) for split, tables in parts.items()}
    except pyarrow.ArrowException as error:
        raise InputError(f"the parquet files in {str(folder)!r} have different columns: {error}") from error


def _image_folders(path: Path) -> dict[str, Table]:
    """Tables of ``<split>/<class>/<image>`` or ``<class>/<image>``: the images' paths and their classes' numbers."""
    folders = _folders(path)
    splits = {folder.name.lower(): folder for folder in folders if SPLIT_IN_NAME.fullmatch(folder.name.lower())}
    splits = splits or {"train": path}
    classes = sorted({folder.name for split in splits.values() for folder in _folders(split)})
    if not classes:
        raise InputError(
            f"{str(path)!r} holds no images: expected parquet files, <class>/<image> or train/<class>/<image> folders, "
            "or a saved Hugging Face data set"
        )
    return {name: _folder_table(folder, classes) for name, folder in splits.items()}


def _folder_table(folder: Path, classes: list[str]) -> Table:
    import pyarrow

    files = [
        (str(file), label)
        for label, name in enumerate(classes)
        for file in sorted((folder / name).rglob("*"))
        if file.is_file() and not file.name.startswith(".")
    ]
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": classes}}
    images = pyarrow.array([{"bytes": None, "path": file} for file, _ in files], _image_type(pyarrow))
    labels = pyarrow.array([label for _, label in files], pyarrow.int64())
    table = pyarrow.table({"image": images, "label": labels})
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _image_type(pyarrow: Any) -> Any:
    return pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def _folders(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))
