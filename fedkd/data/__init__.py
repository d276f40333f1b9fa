"""Data: where images come from, who holds which of them, and the augmented views that training sees."""

from fedkd.data.build import build_federation
from fedkd.data.federation import Federation
from fedkd.data.samples import Samples, normalise
from fedkd.data.source import Source
from fedkd.data.sources import load_source
from fedkd.data.views import PRESETS, augment

__all__ = ["PRESETS", "Federation", "Samples", "Source", "augment", "build_federation", "load_source", "normalise"]
