"""What every strategy owes, shipped or a user's own."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from fedkd.engine.strategy import Strategy
from fedkd.experiment.experiment import Experiment
from fedkd.experiment.registry import build_class
from fedkd.testing.check import Check, checks_of, fail
from fedkd.testing.strategy_faults import (
    a_bad_upload_leaves_the_others_as_if_its_client_had_dropped_out,
    copies_of_an_upload_average_to_it,
    public_samples_may_lie_in_any_order,
)
from fedkd.testing.strategy_in_flower import runs_in_flowers_own_loop
from fedkd.testing.strategy_kinds import works_with_samples_of_every_kind
from fedkd.testing.strategy_results import (
    every_part_of_the_loss_has_a_gradient,
    goes_on_from_its_memory_alone,
    learns,
    resumes,
    same_seed_same_result,
)
from fedkd.testing.strategy_rounds import (
    answers_every_round,
    keeps_no_graph,
    keeps_nothing_on_itself,
    leaves_what_it_is_handed_as_it_was,
    predicts_in_eval_mode,
    reads_only_its_own_samples,
    reports_its_loss,
    sends_buffers_with_the_weights,
    sends_what_its_schema_says,
    works_with_a_net_of_the_users_own,
)
from fedkd.testing.trial import Trial


def check_strategy(strategy: type[Strategy] | Strategy, **settings: Any) -> None:
    """Hold a strategy against all that fedkd's engines and its users rely on: some fifty small runs' worth, in seconds.

    Args:
        strategy: the class, whose fields keep their defaults, or an instance.
        settings: keys of the experiment in place of the checks' own, as ``nets="resnet18"`` or ``data={"clients": 3}``.

    Raises:
        AssertionError: the first promise that is not kept, in one line.
    """
    for check in strategy_checks(strategy, **settings):
        check()


def strategy_checks(strategy: type[Strategy] | Strategy, **settings: Any) -> list[Check]:
    """The checks of ``check_strategy``, one by one, for ``pytest.mark.parametrize``. Nothing runs before one is called."""
    trial = Trial(strategy, settings)
    return checks_of(trial.cls.__name__, CHECKS, trial)


def is_a_final_frozen_dataclass_that_says_what_it_does(trial: Trial) -> None:
    """Hyperparameters are its fields and nothing else is; paper, what travels and a docstring are there to be listed."""
    cls, look = trial.cls, f"the class {trial.cls.__name__}"
    frozen = dataclasses.is_dataclass(cls) and "__dataclass_fields__" in vars(cls) and cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    if not frozen or not getattr(cls, "__final__", False):
        fail("another kind of class", expected="@final @dataclass(frozen=True)", setting="its definition", look=look)
    for name in ("paper", "sends"):
        if not getattr(cls, name, ""):
            fail("none", expected=f"a class variable {name}", setting="its definition", look=look)
    if not inspect.getdoc(cls) or cls.__doc__ == Strategy.__doc__ or str(cls.__doc__).startswith(f"{cls.__name__}("):
        fail("none", expected="a docstring", setting="its definition", look=look)


def comes_back_from_its_name_and_numbers(trial: Trial) -> None:
    """A run-config carries fields as text and numbers; what is read from it is the same strategy."""
    fields = {field.name: getattr(trial.strategy, field.name) for field in dataclasses.fields(trial.strategy)}
    setting, look = f"fields {fields}", "the types of its fields: numbers, text, or lists of them"
    if (again := build_class(trial.cls, fields)) != trial.strategy:
        fail(repr(again), expected=repr(trial.strategy), setting=setting, look=look)
    experiment = trial.experiment()
    if odd := [key for key, value in experiment.to_flat().items() if not isinstance(value, bool | int | float | str)]:
        found = type(experiment.to_flat()[odd[0]]).__name__
        fail(f"a {found}", expected=f"{odd[0]} to be a number or text", setting="its run-config", look=look)
    tables = [each.to_tables() for each in (experiment, Experiment.from_flat(experiment.to_flat(), experiment.functions()))]
    if tables[0] != tables[1]:
        key = next(key for key in tables[0] if tables[0][key] != tables[1][key])
        fail(str(tables[1][key]), expected=f"[{key}] {tables[0][key]}", setting="to_flat and back", look=look)


#: Every check, the quick ones first.
CHECKS = (
    is_a_final_frozen_dataclass_that_says_what_it_does,
    comes_back_from_its_name_and_numbers,
    answers_every_round,
    sends_what_its_schema_says,
    reports_its_loss,
    leaves_what_it_is_handed_as_it_was,
    keeps_nothing_on_itself,
    keeps_no_graph,
    reads_only_its_own_samples,
    works_with_a_net_of_the_users_own,
    sends_buffers_with_the_weights,
    predicts_in_eval_mode,
    same_seed_same_result,
    goes_on_from_its_memory_alone,
    resumes,
    every_part_of_the_loss_has_a_gradient,
    learns,
    copies_of_an_upload_average_to_it,
    a_bad_upload_leaves_the_others_as_if_its_client_had_dropped_out,
    public_samples_may_lie_in_any_order,
    works_with_samples_of_every_kind,
    runs_in_flowers_own_loop,
)
