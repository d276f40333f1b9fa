"""What a user decided about a net stands in every strategy, on every grid: also what no state dict holds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from grids.forgetful import ForgetfulGrid
from test_every_strategy import of_every_kind, trial

from fedkd import simulate
from fedkd.grids import JobGrid
from fedkd.testing.trial import numbers


@pytest.mark.slow
@pytest.mark.parametrize("name", of_every_kind())
def test_what_no_state_dict_holds_is_the_same_on_a_grid_that_forgets(name: str) -> None:
    assert numbers(simulate(trial(name).of_users_net(), ForgetfulGrid())) == numbers(trial(name).watch_of_users_net.history)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["local", "dml"])
def test_what_no_state_dict_holds_is_each_clients_own_on_every_grid(name: str, make_grid: Callable[[], JobGrid]) -> None:
    """A net that the client keeps goes on with its running mean; no client sees another's."""
    experiment = trial(name).of_users_net(rounds=1)
    assert numbers(simulate(experiment, make_grid())) == numbers(simulate(experiment))
