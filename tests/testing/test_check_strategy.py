"""Each check of a strategy finds the strategy that breaks its promise, and passes the one that breaks none."""

from __future__ import annotations

import random
import re
import warnings
from functools import cache

import numpy as np
import pytest
import torch
import wrong_strategies as wrong

from fedkd import Strategy
from fedkd.base.errors import InputError
from fedkd.testing import Check, check_strategy, strategy_checks

#: The check that must find it -> the wrong strategy, and what the message names.
CASES: list[tuple[str, type[Strategy], str]] = [
    ("is_a_final_frozen_dataclass_that_says_what_it_does", wrong.Open, "@final @dataclass(frozen=True)"),
    ("comes_back_from_its_name_and_numbers", wrong.Unspeakable, "schedule"),
    ("answers_every_round", wrong.Unnamed, "samples missing or unexpected"),
    ("reports_its_loss", wrong.Silent, "expected a loss in round 1, got none"),
    ("leaves_what_it_is_handed_as_it_was", wrong.InPlace, "client_update at client 0"),
    ("leaves_what_it_is_handed_as_it_was", wrong.SumsInPlace, "server_update at server"),
    ("keeps_nothing_on_itself", wrong.Remembering, "changed seen of the strategy"),
    ("keeps_nothing_on_itself", wrong.OnTheClient, "put last on the client"),
    ("keeps_no_graph", wrong.WithGraph, "the live value 'logits' of client 0"),
    ("reads_only_its_own_samples", wrong.Curious, "client 0 reads samples that are not its own"),
    ("reads_only_its_own_samples", wrong.OnTheTestSet, "client 0 reads samples of the global test set"),
    ("works_with_a_net_of_the_users_own", wrong.Thawing, "frozen"),
    ("sends_buffers_with_the_weights", wrong.ParametersOnly, "without encoder.centred.mask"),
    ("predicts_in_eval_mode", wrong.InTrainMode, "predictor 'global' at server gives other outputs when asked twice"),
    ("same_seed_same_result", wrong.Unseeded, "the same numbers from the same seed"),
    ("goes_on_from_its_memory_alone", wrong.ThroughAGlobal, "clients are asked last to first"),
    ("resumes", wrong.ServerGlobal, "resumed after round 1"),
    ("every_part_of_the_loss_has_a_gradient", wrong.Detached, "a derivative of 'proximity'"),
    ("learns", wrong.Forgetting, "an accuracy above"),
    ("copies_of_an_upload_average_to_it", wrong.Undivided, "weighted_mean"),
    ("a_bad_upload_leaves_the_others_as_if_its_client_had_dropped_out", wrong.NeedsAll, "KeyError: 1"),
    ("public_samples_may_lie_in_any_order", wrong.ByPosition, "the other way round"),
    (
        "works_with_samples_of_every_kind",
        wrong.Mirroring,
        "expected them to be used, or refused before round 1, got no client's",
    ),
    ("runs_in_flowers_own_loop", wrong.OwnHooks, "expected"),
]
RIGHT = strategy_checks(wrong.Right)


@cache
def checks(cls: type[Strategy]) -> dict[str, Check]:
    """The checks of a class by name; they share its runs."""
    return {check.__name__: check for check in strategy_checks(cls)}


@pytest.mark.slow
@pytest.mark.parametrize("check", RIGHT)
def test_a_right_strategy_passes(check: Check) -> None:
    check()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "cls", "said"), CASES, ids=lambda value: getattr(value, "__name__", None))
def test_a_wrong_strategy_is_found_in_one_line(name: str, cls: type[Strategy], said: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(said)) as error:
        checks(cls)[name]()
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{cls.__name__}, {name}: ")


def test_every_check_has_a_strategy_that_it_finds() -> None:
    found = {name for name, _, _ in CASES} | {"sends_what_its_schema_says"}  # nothing gets so far that is not refused before
    assert {check.__name__ for check in RIGHT} == found


def test_settings_are_keys_of_the_experiment_and_an_instance_keeps_its_fields() -> None:
    with pytest.raises(AssertionError, match="unknown key 'rouns': did you mean 'rounds'"):
        strategy_checks(wrong.Right(), rouns=3)[1]()
    with pytest.raises(InputError, match="check_strategy takes a Strategy, its class or an instance of it; got 'fedavg'"):
        check_strategy("fedavg")  # type: ignore[arg-type]


@pytest.mark.slow
def test_checking_leaves_everything_as_it_was() -> None:
    torch.manual_seed(3)
    np.random.seed(4)
    random.seed(5)
    patched = {name: vars(wrong.Averaging)[name] for name in ("client_update", "server_update", "predictors")}
    before = torch.get_rng_state(), repr(np.random.get_state()), random.getstate(), torch.get_num_threads(), warnings.filters[:]
    check_strategy(wrong.Right, rounds=2, data={"clients": 3, "train_limit": 200})
    assert torch.equal(torch.get_rng_state(), before[0])
    after = repr(np.random.get_state()), random.getstate(), torch.get_num_threads(), warnings.filters[:]
    assert after == before[1:]
    assert {name: vars(wrong.Averaging)[name] for name in patched} == patched
    assert not {"client_update", "server_update", "predictors"} & vars(wrong.Right).keys()
