"""Tests may import each other's examples: tests/ stands on the path. One thread: the nets are small and cores shared."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

torch.set_num_threads(1)
