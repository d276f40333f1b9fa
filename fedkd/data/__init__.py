"""Data: where samples come from, who holds which of them, and the random views that training sees."""

from fedkd.data.build import build_federation
from fedkd.data.federation import Federation
from fedkd.data.kinds import KINDS, Kind, Moments
from fedkd.data.kinds.image import normalise
from fedkd.data.rows import MappedArray
from fedkd.data.samples import Samples
from fedkd.data.source import Source
from fedkd.data.sources import load_source
from fedkd.data.views import PRESETS, augment

__all__ = [
    "KINDS",
    "PRESETS",
    "Federation",
    "Kind",
    "MappedArray",
    "Moments",
    "Samples",
    "Source",
    "augment",
    "build_federation",
    "load_source",
    "normalise",
]
