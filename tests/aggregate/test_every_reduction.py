"""What every reduction owes, whichever file it is in: a new name in REDUCTIONS or __all__ is tested here without an edit."""

import doctest
import inspect
from collections.abc import Callable
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import fedkd.aggregate
from fedkd.aggregate import REDUCTIONS

Reduction = Callable[[Tensor], Tensor]
FUNCTIONS = [name for name in fedkd.aggregate.__all__ if callable(getattr(fedkd.aggregate, name))]
every = pytest.mark.parametrize("reduce", REDUCTIONS.values(), ids=REDUCTIONS.keys())


def random_tables(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@st.composite
def tables(draw: st.DrawFn) -> Tensor:
    """(K, P, C) float32, ties and zeros included, as hypothesis likes them."""
    shape = draw(st.tuples(st.integers(1, 7), st.integers(1, 3), st.integers(1, 4)))
    size = shape[0] * shape[1] * shape[2]
    numbers = st.sampled_from([0.0, 1.0, -1.0, 0.5]) | st.floats(-1e6, 1e6, width=32)
    return torch.tensor(draw(st.lists(numbers, min_size=size, max_size=size))).view(shape)


@pytest.mark.slow
@every
@settings(deadline=None)
@given(tables())
def test_the_result_is_finite_and_within_the_clients_range_in_every_coordinate(reduce: Reduction, values: Tensor) -> None:
    result = reduce(values)
    assert result.shape == values.shape[1:]
    assert result.isfinite().all()
    assert ((values.amin(0) <= result) & (result <= values.amax(0))).all()


@pytest.mark.slow
@every
@settings(deadline=None)
@given(tables(), st.integers(1, 8))
def test_equal_tables_give_that_table_bit_for_bit(reduce: Reduction, values: Tensor, clients: int) -> None:
    assert torch.equal(reduce(values[:1].expand(clients, -1, -1)), values[0])


@pytest.mark.slow
@every
@settings(deadline=None)
@given(st.integers(0, 2**31), st.randoms(use_true_random=False))
def test_the_order_of_clients_does_not_matter(reduce: Reduction, seed: int, random: Random) -> None:
    values = random_tables(seed, 11, 4, 3)
    order = random.sample(range(11), 11)
    torch.testing.assert_close(reduce(values[order]), reduce(values), rtol=1e-4, atol=1e-5)


@every
def test_a_public_sample_does_not_depend_on_the_others(reduce: Reduction) -> None:
    values = random_tables(0, 10, 30, 4)
    values[0] += 20
    alone = torch.cat([reduce(values[:, [p]]) for p in range(30)])
    torch.testing.assert_close(reduce(values), alone, rtol=1e-6, atol=1e-6)


@every
def test_moving_and_stretching_all_tables_moves_and_stretches_the_result(reduce: Reduction) -> None:
    values = random_tables(1, 10, 20, 4).double()
    torch.testing.assert_close(reduce(7 * values + 3), 7 * reduce(values) + 3, rtol=1e-5, atol=1e-5)


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_keeps_the_type_and_leaves_its_input_alone(reduce: Reduction, dtype: torch.dtype) -> None:
    values = random_tables(2, 6, 5, 4).to(dtype)
    before = values.clone()
    assert reduce(values).dtype == dtype
    assert torch.equal(values, before)


@every
def test_is_the_same_inside_an_autocast_region(reduce: Reduction) -> None:
    values = random_tables(3, 9, 5, 4)
    outside = reduce(values)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(reduce(values), outside)


@every
def test_no_public_samples_give_an_empty_table(reduce: Reduction) -> None:
    assert reduce(torch.zeros(5, 0, 3)).shape == (0, 3)


@every
def test_no_clients_and_whole_numbers_are_refused(reduce: Reduction) -> None:
    with pytest.raises(ValueError):
        reduce(torch.zeros(0, 2, 3))
    with pytest.raises(ValueError, match="make them float"):
        reduce(torch.zeros(5, 2, 3, dtype=torch.int64))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstring_shows_an_example_that_runs(name: str) -> None:
    function = getattr(fedkd.aggregate, name)
    (found,) = doctest.DocTestFinder(recurse=False).find(function, name, globs=dict(vars(inspect.getmodule(function))))
    assert found.examples
    assert doctest.DocTestRunner().run(found).failed == 0


def test_every_reduction_is_public() -> None:
    assert set(REDUCTIONS) <= set(FUNCTIONS)
