"""Strategies are found by the names of their classes, too."""

import pytest

import fedkd.strategies
from fedkd.experiment.registry import strategies


@pytest.mark.slow
def test_every_class_is_found_by_its_name_in_the_package() -> None:
    for strategy in strategies().values():
        assert getattr(fedkd.strategies, strategy.__name__) is strategy
    with pytest.raises(AttributeError, match="has no attribute 'Fedavg'"):
        fedkd.strategies.Fedavg  # noqa: B018
