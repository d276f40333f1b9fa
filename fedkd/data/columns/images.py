"""A column of encoded images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor

from fedkd.data.columns.arrow import Part, column_of
from fedkd.data.columns.reader import Read, Reader
from fedkd.data.decode import decode_images
from fedkd.data.pixels import in_channels
from fedkd.data.tables import Table


@final
@dataclass(frozen=True)
class Images(Reader):
    """Images are in colour if one of them is."""

    columns: tuple[str, ...]
    channels: str  # as the user wants them: then nothing is said

    def read(self, train: Part, test: Part | None, kept: Tensor) -> Read:
        """uint8 or uint16 (N, C, H, W)."""
        column = self.columns[0]
        images, grey = decode_images(_encoded(train.tables, column), where=f"{train.name}, column {column!r}")
        count, test_images = len(images), None
        if test is not None:
            test_images, test_grey = decode_images(_encoded(test.tables, column), where=f"{test.name}, column {column!r}")
            grey, count = grey + test_grey, count + len(test_images)
            channels = max(images.shape[1], test_images.shape[1])
            images, test_images = in_channels(images, channels), in_channels(test_images, channels)
        return Read(images, test_images, [] if self.channels else [_of_channels(grey, count)])


def _of_channels(grey: int, images: int) -> str:
    if grey in (0, images):
        return ""
    cure = "data.channels = 'grey' reads all in grey"
    return f"{grey} of {images} images are grey and read in three equal channels, as the others are in colour ({cure})"


def _encoded(tables: Sequence[Table], column: str) -> list[bytes | str | None]:
    """The images of a column: the contents of a file, or its path."""
    encoded: list[bytes | str | None] = []
    for table in tables:
        for chunk in column_of(table, column, "a table of the set").chunks:
            if hasattr(chunk, "field"):  # a struct
                has_paths = chunk.type.get_field_index("path") >= 0
                paths = chunk.field("path").to_pylist() if has_paths else [None] * len(chunk)
                encoded += [data or path for data, path in zip(chunk.field("bytes").to_pylist(), paths, strict=True)]
            else:
                encoded += chunk.to_pylist()
    return encoded
