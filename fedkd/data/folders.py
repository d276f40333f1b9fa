"""Folders of images as tables of paths, labels and owners; what the folders mean is read in layout.py."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedkd.base.errors import InputError
from fedkd.data.labels import UNLABELLED
from fedkd.data.layout import Layout, read_layout, some
from fedkd.data.splits import choose_splits

#: Of files that are taken for images; others are looked into.
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
LITTER = ("__macosx", "__pycache__", "@eadir", "$recycle.bin", "lost+found", "system volume information")
LITTER_FILES = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")


@dataclass
class Found:
    """What lies below a folder: images by place, and what is left out."""

    images: dict[tuple[str, ...], list[Path]] = field(default_factory=dict)
    others: list[Path] = field(default_factory=list)  # files that are no images
    empty: list[str] = field(default_factory=list)  # folders without an image below them


@dataclass(frozen=True)
class FolderSet:
    """The tables of a folder's splits, and in words how the folder was read; empty where that goes without saying."""

    tables: dict[str, Any]
    reading: str


def is_litter(path: os.DirEntry[str]) -> bool:
    """Hidden, or left behind by an operating system or a notebook: no part of any data set."""
    return path.name.startswith(".") or path.name.lower() in LITTER or path.name.lower() in LITTER_FILES


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder by name, litter left out."""
    try:
        with os.scandir(folder) as scanned:
            entries = sorted((entry for entry in scanned if not is_litter(entry)), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"cannot read the folder {str(folder)!r}: {error.strerror}") from error
    if bad := next((entry.name for entry in entries if not _is_text(entry.name)), None):
        raise InputError(f"a name in the folder {str(folder)!r} is no text in UTF-8, {os.fsencode(bad)!r}: rename it")
    return entries


def _is_text(name: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in name)  # what Python makes of bytes that are none


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder but litter, in a fixed order. Links are followed, in circles once."""
    yield from (file for _, files in walk(folder) for file in files)


def walk(folder: Path, above: tuple[str, ...] = ()) -> Iterator[tuple[Path, list[Path]]]:
    """Each folder with its files, litter left out."""
    here = os.path.realpath(folder)
    if here in above:
        return
    entries = _entries(folder)
    yield folder, [Path(entry.path) for entry in entries if not entry.is_dir()]  # links to nowhere too: reading them will tell
    for entry in entries:
        if entry.is_dir():
            yield from walk(Path(entry.path), (*above, here))


def unwrap(path: Path) -> Path:
    """The folder in which a set begins: below those that hold but one folder, which is no class yet."""
    passed: set[str] = set()
    while (here := os.path.realpath(path)) not in passed:
        passed.add(here)
        entries = _entries(path)
        folders = [Path(entry.path) for entry in entries if entry.is_dir()]
        if len(folders) != 1 or any(Path(entry.name).suffix.lower() in SUFFIXES for entry in entries):
            return path
        if not any(entry.is_dir() for entry in _entries(folders[0])):
            return path
        path = folders[0]
    return path


def read_folders(path: Path, layout: str = "") -> FolderSet:
    """The images below a folder by split, each with its class's name and, where folders say it, its owner's.

    Raises:
        InputError: no images, no classes, or folders that could mean two things.
    """
    found = find_images(path)
    if not found.images:
        kinds = Counter(file.suffix or "without an ending" for file in found.others).most_common(3)
        there = ", ".join(f"{count} files {kind}" for kind, count in kinds) or "nothing else either"
        raise InputError(f"{str(path)!r} holds no images ({there})")
    try:
        read = read_layout(found.images.keys(), layout)
        places = {place: read.read(place) for place in found.images}
        kept = {place: says for place, says in places.items() if _is_kept(read, says)}
        rows: dict[str, list[tuple[tuple[str, ...], dict[str, str]]]] = defaultdict(list)
        for place, says in kept.items():
            rows[says.get("split", "train")].append((place, says))
        chosen = choose_splits({name: read.splits.get(name, "train") for name in rows})
        train, test = ({says["class"] for _, says in rows.get(name, []) if "class" in says} for name in chosen[:2])
        if train and test and not train & test:
            raise InputError(f"{chosen.train} and {chosen.test} share no class, {some(sorted(train))} and {some(sorted(test))}")
    except InputError as error:
        raise InputError(f"{str(path)!r}: {error}") from None
    tables = {name: _table([(file, says) for place, says in rows[name] for file in found.images[place]]) for name in rows}
    usual = str(read) in ("class", "split/class") and {*read.splits} <= {"train", "test"}
    plain = usual and all(len(place) == len(read.roles) for place in kept)
    left = _left_out(found, [place for place in found.images if place not in kept])
    told = "" if plain or layout else _reading(read, tables, {chosen.train, chosen.test}, [says for says in kept.values()])
    return FolderSet(tables, "; ".join(filter(None, (told, left))))


def _is_kept(read: Layout, says: dict[str, str]) -> bool:
    """Whether a place is of a split that is read: by class, or a bare folder of training images."""
    split = read.splits.get(says.get("split", ""), "-")
    return bool(split) and ("class" in says or (split == "train" and {*says} == {"split"}))


def find_images(path: Path) -> Found:
    """Every image below a folder by the folders that lead to it."""
    found, root = Found(), unwrap(path)
    for folder, files in walk(root):
        place = folder.relative_to(root).parts
        images: list[Path] = []
        for file in files:
            (images if is_image(file) else found.others).append(file)
        if images:
            found.images[place] = images
        else:
            found.empty.append("/".join(place))
    holding = {"/".join(place[:level]) for place in found.images for level in range(len(place) + 1)}
    found.empty = [place for place in found.empty if place not in holding]
    return found


def is_image(file: Path) -> bool:
    """By its ending, else by its first bytes."""
    if file.suffix.lower() in SUFFIXES:
        return True
    from PIL import Image

    try:
        with Image.open(file):
            return True
    except Exception:  # Pillow's plugins raise whatever a file that is none of theirs leads them to
        return False


def _table(rows: list[tuple[Path, dict[str, str]]]) -> Any:
    import pyarrow

    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel"}}
    labels = [says.get("class") for _, says in rows]
    columns = {
        "image": pyarrow.array(
            [{"bytes": None, "path": str(file)} for file, _ in rows],
            pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]),
        ),
        "label": pyarrow.array(labels, pyarrow.string()) if any(labels) else pyarrow.array([UNLABELLED] * len(rows)),
    }
    if rows and "client" in rows[0][1]:
        features["client"] = {"_type": "Owner"}
        columns["client"] = pyarrow.array([says["client"] for _, says in rows], pyarrow.string())
    return pyarrow.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _reading(layout: Layout, tables: dict[str, Any], used: set[str], places: list[dict[str, str]]) -> str:
    """How folders were read, in words."""
    names = {role: sorted({says[role] for says in places if role in says}) for role in ("split", "client", "class")}
    text = f"its folders are read as {layout}: classes {some(names['class'])}"
    if names["split"]:
        text += "; splits " + ", ".join(f"{name} ({len(tables[name])} images)" for name in names["split"] if name in used)
    if names["client"]:
        text += f"; clients {some(names['client'])}"
    return f"{text} (if that is wrong, set data.layout)"


def _left_out(found: Found, places: list[tuple[str, ...]]) -> str:
    parts = []
    if places:
        images = sum(len(found.images[place]) for place in places)
        parts.append(f"{images} images in {some(sorted({'/'.join(place[:1]) or 'the top folder' for place in places}))}")
    if found.others:
        parts.append(f"{len(found.others)} files that are no images ({some([file.name for file in found.others])})")
    if found.empty:
        parts.append(f"empty folders ({some(found.empty)})")
    return f"left out: {', '.join(parts)}" if parts else ""
