"""A cheap fingerprint of files: where they are, how large, when they were last written."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fedkd.data.folders import files_below


def stamp(path: Path) -> str:
    """A hex digest that changes with any file at or below a path: name, size, time of writing. Contents are not read."""
    digest = hashlib.blake2b(str(path.resolve()).encode(errors="surrogateescape"), digest_size=16)
    for file in [path] if path.is_file() else files_below(path) if path.is_dir() else []:
        try:
            status = file.stat()
        except OSError:
            continue  # gone, or a link to nowhere: whoever reads it will say so
        digest.update(repr((str(file), status.st_size, status.st_mtime_ns)).encode(errors="surrogateescape"))
    return digest.hexdigest()
