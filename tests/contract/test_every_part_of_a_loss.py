"""Every part of every strategy's loss moves a net: found by looking at each step of a run, at the defaults."""

from __future__ import annotations

from typing import Any

import pytest
from test_every_strategy import NAMES

from fedkd.experiment.registry import build
from fedkd.testing.strategy_results import SMALLEST, gradients
from fedkd.testing.trial import Trial

#: Where a short run with a small net would never come to some part: fields, and keys of the experiment.
FIELDS: dict[str, dict[str, Any]] = {
    "born_again": {"generation": 1},  # the first has no teacher
    "snapshot": {"cycle": 1},  # nor has the first cycle
    "ffsd": {"diversity_weight": 0.1},  # of which the paper takes a hundred-thousandth
}
KEYS: dict[str, dict[str, Any]] = {
    "byot": {"nets": "resnet18", "net_options": {"resnet18": {"width": 4}}},  # hints are for the third exit on
}
#: Parts that such a run must come to.
EXPECTED = {
    **{name: {"distillation"} for name in ("born_again", "snapshot", "tf_kd_self")},
    "byot": {"hint"},
    "ffsd": {"diversity", "self_distillation", "decoder", "spread_attention"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_part_of_the_loss_has_a_gradient(name: str) -> None:
    found = gradients(Trial(build({"name": name, **FIELDS.get(name, {})}), KEYS.get(name, {})))  # type: ignore[arg-type]
    assert found.keys() >= EXPECTED.get(name, set())
    assert found
    assert {part: slope for part, slope in found.items() if not slope > SMALLEST} == {}
