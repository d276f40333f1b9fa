"""What a run's data were: content, class names, normalisation, sizes, and who held what. Written as data.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from fedkd.base.errors import InputError
from fedkd.results.files import write_atomically

if TYPE_CHECKING:
    from fedkd.data.federation import Federation
    from fedkd.data.source import Source

#: The file of a run directory that holds it.
FILE = "data.json"


@dataclass(frozen=True)
class RecordedData:
    """The data of a run. Two runs with equal values had the same samples, labels, names and partition."""

    source: str
    content_hash: str  # of samples, labels, owners and class names, train and test
    classes: tuple[str, ...]  # by number
    shape: tuple[int, ...] | dict[str, tuple[int, ...]]  # of a sample, (C, H, W) of an image; by name of several tensors
    mean: tuple[float, ...]  # what all inputs were normalised by: (C,) of pixels in 0..1, (F,) of features; empty: by nothing
    std: tuple[float, ...]  # likewise
    test: int  # samples of the global test set
    public: int  # samples that everybody holds
    public_hash: str
    validation: int  # samples that the server holds
    client_train: tuple[int, ...]  # samples that each client trains on
    client_test: tuple[int, ...]  # and keeps for its own test
    client_classes: tuple[tuple[int, ...], ...]  # (clients, classes): labelled training samples; with own data, all samples
    partition_hash: str  # of who holds which sample
    unlabelled: tuple[int, ...] = ()  # samples without a label at each client
    unheld: int = 0  # samples that the partition leaves with nobody
    public_content: str = ""  # the content hash of the other data set that the public samples are of, if they are of one
    kind: str = "image"  # of the samples
    vocabulary: int = 0  # of tokens: how many ids there are
    normalise: str = "global"  # by whose moments inputs are normalised
    client_moments: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...] = ()  # under "client": each one's mean and std

    @classmethod
    def of(cls, federation: Federation) -> RecordedData:
        """Describe a federation. Raises InputError where the partition cannot be drawn."""
        from fedkd.data.kinds.kind import NO_MOMENTS  # only here: it imports torch, and whoever reads runs does without

        source, holdings = federation.source, federation.holdings
        shared = federation.examples.moments if federation.normalise == "global" else NO_MOMENTS
        return cls(
            source=source.name,
            content_hash=source.content_hash,
            classes=class_names(source),
            shape=dict(source.shape) if isinstance(source.shape, Mapping) else source.shape,
            mean=tuple(shared.mean.tolist()),
            std=tuple(shared.std.tolist()) if len(shared.mean) else (),
            test=len(federation.test),
            public=len(federation.public or ()),
            public_hash=federation.public_hash,
            validation=len(federation.validation or ()),
            client_train=tuple(held.train for held in holdings),
            client_test=tuple(held.test for held in holdings),
            client_classes=tuple(held.train_classes for held in holdings),
            partition_hash=federation.partition_hash,
            unlabelled=tuple(federation.unlabelled.tolist()),
            unheld=federation.unheld,
            public_content=federation.public_content,
            kind=source.kind.name,
            vocabulary=source.vocabulary,
            normalise=federation.normalise,
            client_moments=tuple((tuple(mean.tolist()), tuple(std.tolist())) for mean, std in federation.all_client_moments),
        )

    @classmethod
    def read(cls, path: Path) -> RecordedData | None:
        """What stands in a run's directory; None where an earlier fedkd wrote no data.json. InputError where it is damaged."""
        file = path / FILE
        if not file.exists():
            return None
        try:
            return _adapter().validate_json(file.read_bytes())
        except ValidationError as error:
            finding = error.errors(include_url=False)[0]
            what = " ".join([*map(str, finding["loc"]), finding["msg"]])
            raise InputError(f"{file} is damaged ({what}): restore it, or take another run") from None

    def to_json(self) -> str:
        """The text of ``data.json``."""
        return json.dumps({field.name: getattr(self, field.name) for field in fields(self)}) + "\n"

    def write(self, path: Path) -> None:
        """Write it into a run's directory."""
        write_atomically(path / FILE, self.to_json())


@cache
def _adapter() -> TypeAdapter[RecordedData]:
    """Made once: that takes longer than reading."""
    return TypeAdapter(RecordedData)


def class_names(source: Source) -> tuple[str, ...]:
    """A source's classes as text that any file can hold, whatever a folder's name was."""
    return tuple(str(name).encode("utf-8", "backslashreplace").decode() for name in source.classes)
