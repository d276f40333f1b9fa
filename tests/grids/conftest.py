"""What tests of grids share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def bare_workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Apps of these tests are Flower and numpy: workers of Ray need not load torch, for seconds, because other tests have."""
    if "ray_session" in request.fixturenames or "RayGrid" in request.node.name:
        monkeypatch.setattr("fedkd.grids.ray.RECORDS_NEED", ())
