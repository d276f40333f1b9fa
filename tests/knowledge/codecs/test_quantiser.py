"""The quantiser of CFD, by hand, against brute force, and packed to bits."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkd.knowledge.codecs.packing import pack, packed_bytes, unpack
from fedkd.knowledge.codecs.quantiser import levels, quantise
from fedkd.testing.messages import rng, table

BITS = range(1, 17)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_entries_are_whole_steps_that_sum_to_exactly_one(bits: int, dtype: torch.dtype) -> None:
    steps = levels(table(200, 7).to(dtype), bits)
    assert steps.dtype == torch.int32
    assert (steps >= 0).all()
    assert (steps.sum(1) == 2**bits - 1).all()
    assert torch.equal(quantise(table(200, 7).to(dtype), bits), (steps.double() / (2**bits - 1)).to(dtype))


@pytest.mark.parametrize("bits", BITS)
def test_what_is_on_the_grid_stays_there(bits: int) -> None:
    once = quantise(table(200, 7), bits)
    assert torch.equal(quantise(once, bits), once)


@pytest.mark.parametrize("bits", BITS)
def test_no_entry_moves_by_a_whole_step(bits: int) -> None:
    probabilities = table(200, 7).double()
    assert (quantise(probabilities, bits) - probabilities).abs().max() < 1 / (2**bits - 1) + 1e-12


def test_one_bit_is_the_one_hot_argmax() -> None:
    probabilities = table(100, 5)
    assert torch.equal(quantise(probabilities, 1), torch.eye(5)[probabilities.argmax(1)])


def test_ties_go_to_the_lowest_class() -> None:
    assert quantise(torch.full((4,), 0.25), 1).tolist() == [1, 0, 0, 0]
    assert levels(torch.full((2, 4), 0.25), 2).tolist() == [[1, 1, 1, 0]] * 2  # three steps for four equal remainders


@pytest.mark.parametrize(("bits", "classes"), [(1, 2), (1, 4), (2, 2), (2, 3), (2, 4), (3, 3)])
def test_no_point_of_the_grid_is_nearer(bits: int, classes: int) -> None:
    steps = 2**bits - 1
    grid = torch.tensor([q for q in product(range(steps + 1), repeat=classes) if sum(q) == steps]) / steps  # (Q, C)
    probabilities = torch.cat([table(50, classes), torch.eye(classes), torch.full((1, classes), 1 / classes)])  # (P, C)
    nearest = (probabilities[:, None] - grid).abs().sum(-1).amin(1)  # (P,)
    reached = (probabilities - quantise(probabilities, bits)).abs().sum(-1)
    assert torch.allclose(reached, nearest, atol=1e-6)


def test_a_class_without_samples_stays_a_row_of_zeros() -> None:
    assert levels(torch.tensor([[0.0, 0.0], [0.0, 1.0]]), 4).tolist() == [[0, 0], [0, 15]]


@pytest.mark.parametrize("row", [[0.5, 0.4], [1.5, -0.5], [float("nan"), 1.0], [3.0, 1.0]])
def test_a_row_that_is_no_distribution_is_refused(row: list[float]) -> None:
    with pytest.raises(ValueError, match="neither a distribution nor all zero"):
        quantise(torch.tensor([[0.5, 0.5], row]), 4)


@pytest.mark.parametrize("bits", [0, 17, 32])
def test_other_bits_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match=f"1 to 16, got {bits}"):
        quantise(torch.tensor([1.0]), bits)


@pytest.mark.slow
@given(bits=st.integers(0, 16), count=st.integers(0, 50), seed=st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_packed_numbers_come_back_from_as_few_bytes_as_there_can_be(bits: int, count: int, seed: int) -> None:
    numbers = torch.randint(0, 2**bits, (count,), generator=rng(seed))
    packed = pack(numbers, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (-(-count * bits // 8),) == (packed_bytes(count, bits),)
    assert torch.equal(unpack(packed, bits, count).long(), numbers)


def test_bits_lie_in_order() -> None:
    assert pack(torch.tensor([[5, 2], [7, 0]]), 3).tolist() == [0b10101011, 0b10000000]


def test_numbers_and_bytes_that_do_not_fit_are_refused() -> None:
    for number in (-1, 8):
        with pytest.raises(ValueError, match="must be 0 to 7"):
            pack(torch.tensor([number]), 3)
    for packed in (torch.zeros(3, dtype=torch.uint8), torch.zeros(2), torch.zeros(2, 1, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="5 numbers of 3 bits are 2 bytes"):
            unpack(packed, 3, 5)
