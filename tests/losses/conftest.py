"""What the tests of losses share."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def same_start() -> Iterator[None]:
    """Layers are initialised from torch's own generator; it starts alike in every test."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
