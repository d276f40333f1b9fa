"""What every target owes, whichever file it is in: a new name in RULES or __all__ is tested here without an edit."""

import doctest
import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import fedkd.targets
from fedkd.base.errors import InputError
from fedkd.targets import RULES, Evidence, Rule, Target, rule_named

K, B, V, C = 4, 6, 8, 5
FUNCTIONS = [name for name in fedkd.targets.__all__ if callable(getattr(fedkd.targets, name))]
every = pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())

#: Which fields of the evidence stand for each name that a rule may need.
FIELDS = {
    "labels": ("labels",),
    "student": ("student",),
    "class_sets": ("class_sets",),
    "weights": ("weights",),
    "validation": ("validation_logits", "validation_labels"),
}


def evidence(teachers: int = K, *, dtype: torch.dtype = torch.float64, scale: float = 2.0, seed: int = 0) -> Evidence:
    """All that any rule may need."""
    rng = torch.Generator().manual_seed(seed)
    known = torch.rand(teachers, C, generator=rng) < 0.6
    known[torch.arange(teachers), torch.randint(C, (teachers,), generator=rng)] = True  # each teacher knows some class
    return Evidence(
        logits=(scale * torch.randn(teachers, B, C, generator=rng)).to(dtype),
        temperature=3.0,
        labels=torch.randint(C, (B,), generator=rng),
        student=(scale * torch.randn(B, C, generator=rng)).to(dtype),
        class_sets=known,
        weights=torch.rand(teachers, generator=rng),
        validation_logits=(scale * torch.randn(teachers, V, C, generator=rng)).to(dtype),
        validation_labels=torch.randint(C, (V,), generator=rng),
    )


def of_teachers(chosen: Tensor, known: Evidence) -> Evidence:
    """The same evidence of some of the teachers, in another order, or one of them several times."""
    per_teacher = {name: getattr(known, name)[chosen] for name in ("logits", "class_sets", "weights", "validation_logits")}
    return replace(known, **per_teacher)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_is_finite_in_at_least_float32_and_probabilities_sum_to_one(rule: Rule, dtype: torch.dtype) -> None:
    target = rule.function(evidence(dtype=dtype))
    assert target.values.shape == (B, C)
    assert target.values.dtype == torch.promote_types(dtype, torch.float32)
    assert target.values.isfinite().all()
    probabilities = target.probabilities(3.0)
    assert (probabilities >= 0).all()
    torch.testing.assert_close(probabilities.sum(1), torch.ones(B, dtype=probabilities.dtype))


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.0, 1e4])
@pytest.mark.parametrize("temperature", [0.01, 1.0])
def test_is_finite_where_softmaxes_underflow_and_where_all_logits_are_equal(
    rule: Rule, dtype: torch.dtype, scale: float, temperature: float
) -> None:
    target = rule.function(replace(evidence(dtype=dtype, scale=scale), temperature=temperature))
    assert target.values.isfinite().all()
    assert target.logits(temperature).isfinite().all()
    torch.testing.assert_close(target.probabilities(temperature).sum(1), torch.ones(B, dtype=dtype))


@every
def test_float64_is_kept_and_half_precision_does_not_enter_from_autocast(rule: Rule) -> None:
    for dtype in (torch.float32, torch.float64):
        outside = rule.function(evidence(dtype=dtype)).values
        with torch.autocast("cpu", torch.bfloat16):
            inside = rule.function(evidence(dtype=dtype)).values
        assert inside.dtype == outside.dtype == dtype
        assert torch.equal(inside, outside)


@every
def test_the_order_of_teachers_does_not_matter(rule: Rule) -> None:
    for seed in range(3):
        known = evidence(seed=seed)
        shuffled = of_teachers(torch.tensor([2, 0, 3, 1]), known)
        torch.testing.assert_close(rule.function(shuffled).values, rule.function(known).values, rtol=1e-6, atol=1e-6)


@every
@pytest.mark.parametrize("copies", [2, 5])
def test_identical_teachers_are_one_teacher(rule: Rule, copies: int) -> None:
    known = evidence()
    alone, together = (rule.function(of_teachers(torch.zeros(n, dtype=torch.long), known)) for n in (1, copies))
    torch.testing.assert_close(together.values, alone.values, rtol=1e-6, atol=1e-6)


@every
def test_one_teacher_teaches_what_it_says(rule: Rule) -> None:
    """Up to the shift of its logits, which a softmax does not see; a vote keeps its first choice only."""
    known = replace(evidence(1), class_sets=torch.ones(1, C, dtype=torch.bool))
    expected = (known.logits[0] / 3.0).softmax(1)
    if rule is RULES["vote"]:
        expected = torch.nn.functional.one_hot(expected.argmax(1), C).double()
    torch.testing.assert_close(rule.function(known).probabilities(3.0), expected)


@every
def test_no_gradient_reaches_teachers_or_student(rule: Rule) -> None:
    known = evidence()
    for tensor in (known.logits, known.student, known.weights, known.validation_logits):
        assert tensor is not None
        tensor.requires_grad_()
    assert not rule.function(known).values.requires_grad


@every
def test_leaves_its_input_alone(rule: Rule) -> None:
    known, before = evidence(), evidence()
    rule.function(known)
    for name in vars(known):
        value = getattr(known, name)
        assert torch.equal(value, getattr(before, name)) if isinstance(value, Tensor) else value == getattr(before, name)


def lacking(fields: set[str]) -> Evidence:
    nothing: dict[str, Any] = dict.fromkeys(fields)
    return replace(evidence(), **nothing)


@every
def test_says_what_it_needs_and_needs_no_more(rule: Rule) -> None:
    assert rule.needs <= set(FIELDS)
    needed = {field for name in rule.needs for field in FIELDS[name]}
    everything = {field for fields in FIELDS.values() for field in fields}
    rule.function(lacking(everything - needed))
    for field in needed:
        with pytest.raises(ValueError, match=field):
            rule.function(lacking({field}))


@every
def test_no_teachers_are_refused(rule: Rule) -> None:
    with pytest.raises(ValueError):
        rule.function(of_teachers(torch.zeros(0, dtype=torch.long), evidence()))


@every
def test_a_batch_of_none_gives_a_target_of_none(rule: Rule) -> None:
    known = evidence()
    assert known.labels is not None
    assert known.student is not None
    nobody = replace(known, logits=known.logits[:, :0], labels=known.labels[:0], student=known.student[:0])
    assert rule.function(nobody).values.shape == (0, C)


def test_a_rule_is_found_by_its_name_and_a_mistyped_name_is_cured() -> None:
    assert rule_named("entropy") is RULES["entropy"]
    with pytest.raises(InputError, match="did you mean 'min_norm'"):
        rule_named("minnorm")


def test_every_rule_is_a_public_function() -> None:
    assert set(RULES) <= set(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstring_shows_an_example_that_runs(name: str) -> None:
    item = getattr(fedkd.targets, name)
    found = doctest.DocTestFinder().find(item, name, globs=dict(vars(inspect.getmodule(item))))
    examples = [test for test in found if test.examples]
    assert examples or name == "Rule"  # which only holds a function and names
    assert all(doctest.DocTestRunner().run(test).failed == 0 for test in examples)


def test_the_kinds_of_target_are_told_apart() -> None:
    with pytest.raises(ValueError, match="'logits' or 'probabilities', not 'log_probabilities'"):
        Target(torch.zeros(1, 2), "log_probabilities")  # type: ignore[arg-type]
