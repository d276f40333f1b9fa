from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fedkd.data import Federation, Source, build_federation


@pytest.fixture
def toy() -> Source:
    """Forty training images of 1x4x4, image i filled with i and labelled i % 4; eight test images of 100..107."""
    values = torch.arange(40, dtype=torch.uint8)
    tests = torch.arange(100, 108, dtype=torch.uint8)
    images, test_inputs = (v[:, None, None, None].expand(-1, 1, 4, 4).contiguous() for v in (values, tests))
    groups = torch.arange(40) // 8  # five writers of eight images each
    return Source("toy", images, values.long() % 4, test_inputs, tests.long() % 4, ("a", "b", "c", "d"), groups)


@pytest.fixture
def federate() -> Callable[..., Federation]:
    """build_federation with everything but the source, the clients and the partition at its usual value."""

    def build(source: Source, clients: int, partition: str = "iid", **changes: Any) -> Federation:
        usual: dict[str, Any] = {
            "arguments": {},
            "client_test": 0.2,
            "public": 0,
            "public_labels": False,
            "public_source": None,
            "validation": 0,
            "labelled": 1.0,
            "train_limit": 0,
            "seed": 0,
        }
        return build_federation(source, clients=clients, partition=partition, **(usual | changes))

    return build
