"""Low-rank factors: the rank rule by hand, exact at full energy, never a zeroed tensor."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkd.knowledge.codecs.lowrank import compress, decompress, expand, factorise, truncate
from fedkd.testing.messages import floating, same_bits

TALL = torch.diag(torch.tensor([3.0, 2.0, 1.0]))  # energies 9, 4 and 1 of 14


@pytest.mark.parametrize(("energy", "rank"), [(0.6, 1), (9 / 14, 2), (0.9, 2), (0.95, 3), (1.0, 3)])
def test_the_rank_is_the_smallest_with_more_than_the_energy(energy: float, rank: int) -> None:
    assert len(truncate(TALL.double(), energy)[1]) == rank


@pytest.mark.parametrize("shape", [(10, 10), (10, 30), (30, 10), (1, 5)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_full_energy_gives_the_matrix_back(shape: tuple[int, int], dtype: torch.dtype) -> None:
    matrix = floating(shape, 0).to(dtype)
    assert torch.allclose(expand(*truncate(matrix, 1.0)), matrix, atol=1e-5)


def test_a_flat_spectrum_is_not_zeroed() -> None:
    """A search that stops one short of the full rank would leave nothing of it."""
    flat = torch.linalg.qr(floating((512, 10), 0))[0].t().float()  # (10, 512), ten equal singular values
    assert len(truncate(flat, 0.95)[1]) == 10
    parts = compress({"head": flat}, 0.95)
    assert same_bits(parts["head"], flat)  # 10 * (10 + 512 + 1) numbers would be more than 5120


def test_a_matrix_of_zeros_has_rank_one_and_stays_zero() -> None:
    factors = truncate(torch.zeros(20, 30), 0.95)
    assert len(factors[1]) == 1
    assert torch.equal(expand(*factors), torch.zeros(20, 30))


def test_factors_travel_only_where_they_are_smaller() -> None:
    small = torch.outer(torch.ones(2), torch.ones(2))  # 1 * (2 + 2 + 1) > 4
    large = torch.outer(torch.ones(3), torch.ones(4))  # 1 * (3 + 4 + 1) < 12
    assert factorise(small, 0.95) is None
    assert {name: tuple(t.shape) for name, t in compress({"a": small, "b": large}, 0.95).items()} == {
        "a": (2, 2),
        "b/u": (3, 1),
        "b/s": (1,),
        "b/v": (1, 4),
    }


def test_a_convolution_is_flattened_to_its_output_channels() -> None:
    kernel = torch.einsum("o,ihw->oihw", torch.arange(1.0, 9), floating((4, 3, 3), 0).float())  # rank 1 as (8, 36)
    parts = compress({"conv.weight": kernel}, 0.95)
    assert tuple(parts["conv.weight/u"].shape) == (8, 1)
    assert torch.allclose(decompress(parts, {"conv.weight": (8, 4, 3, 3)})["conv.weight"], kernel, atol=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_travels_whole(bad: float) -> None:
    tensor = torch.full((20, 30), bad)
    assert same_bits(compress({"w": tensor}, 0.95)["w"], tensor)


def test_what_has_no_two_axes_or_no_floats_travels_whole() -> None:
    tensors = {"bias": torch.ones(99), "count": torch.tensor(3), "ids": torch.ones(20, 30).long(), "none": torch.ones(0, 30)}
    assert compress(tensors, 0.95).keys() == tensors.keys()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_factors_keep_the_tensor_s_dtype(dtype: torch.dtype) -> None:
    tensor = torch.outer(torch.ones(20), torch.arange(1.0, 31)).to(dtype)
    parts = compress({"w": tensor}, 0.95)
    assert {part.dtype for part in parts.values()} == {dtype}
    assert torch.allclose(decompress(parts, {"w": (20, 30)})["w"].float(), tensor.float(), rtol=0.02)


@given(shapes=st.lists(st.lists(st.integers(0, 12), max_size=4).map(tuple), max_size=4), energy=st.floats(0.01, 1))
@settings(max_examples=60, deadline=None)
def test_every_tensor_comes_back_with_its_shape(shapes: list[tuple[int, ...]], energy: float) -> None:
    tensors = {f"t{i}": floating(shape, i) for i, shape in enumerate(shapes)} | {"t0/u": torch.ones(1).double()}
    forms = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    got = decompress(compress(tensors, energy), forms)
    for name, tensor in tensors.items():
        assert (got[name].shape, got[name].dtype) == (tensor.shape, tensor.dtype)
        assert (got[name] - tensor).norm() ** 2 <= (1 - energy) * tensor.norm() ** 2 + 1e-9


U, S, V = torch.ones(4, 2), torch.ones(2), torch.ones(2, 6)


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"w/u": U, "w/s": S},
        {"w/u": U, "w/s": S, "w/v": V, "w": torch.ones(4, 6)},
        {"w/u": U, "w/s": S, "w/v": V, "x": S},
        {"w": torch.ones(6, 4)},
        {"w/u": U.t(), "w/s": S, "w/v": V},
        {"w/u": U, "w/s": torch.ones(3), "w/v": V},
        {"w/u": U, "w/s": torch.ones(2, 1), "w/v": V},
        {"w/u": U.double(), "w/s": S, "w/v": V},
        {"w/u": U.int(), "w/s": S.int(), "w/v": V.int()},
        {"w/u": torch.ones(4, 0), "w/s": torch.ones(0), "w/v": torch.ones(0, 6)},
        {"w/u": torch.ones(()), "w/s": S, "w/v": V},
        {"w/u": torch.ones(4), "w/s": S, "w/v": torch.ones(6)},
    ],
)
def test_parts_that_do_not_fit_are_refused_in_one_line(parts: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError) as caught:
        decompress(parts, {"w": (4, 6)})
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError):
        decompress({"w/u": torch.ones(4, 1), "w/s": torch.ones(1), "w/v": torch.ones(1, 1)}, {"w": (4,)})


@pytest.mark.parametrize("energy", [0.0, -1.0, 1.01, float("nan")])
def test_an_energy_out_of_range_is_refused(energy: float) -> None:
    with pytest.raises(ValueError, match="over 0 and at most 1"):
        truncate(TALL, energy)
