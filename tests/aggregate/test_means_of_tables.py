"""Means over clients, over owners, and over the other owners."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkd.aggregate import leave_one_out, masked_mean, mean

VALUES = torch.tensor([[[1.0, 2.0]], [[5.0, 4.0]], [[0.0, 3.0]]])  # (K 3, 1, 2)


@pytest.mark.recomputed("mean", by="hand")
def test_weights_are_one_a_client_or_one_a_client_and_row() -> None:
    assert mean(VALUES).tolist() == [[2.0, 3.0]]
    assert mean(VALUES, [1, 1, 0]).tolist() == [[3.0, 3.0]]
    assert mean(VALUES, torch.tensor([[1.0], [0.0], [3.0]])).tolist() == [[0.25, 2.75]]


@pytest.mark.parametrize("weights", [[1.0, 1.0], [1.0, -1.0, 1.0], [0.0, 0.0, 0.0]])
def test_weights_that_make_no_mean_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weight"):
        mean(VALUES, weights)


def test_an_absent_class_is_left_out_and_its_row_is_never_read() -> None:
    values = VALUES.clone()
    values[2] = torch.nan
    means, owners = masked_mean(values, torch.tensor([[3], [1], [0]]))
    assert means.tolist() == [[2.0, 2.5]]
    assert owners.tolist() == [2]


def test_a_class_that_nobody_owns_is_zeros() -> None:
    means, owners = masked_mean(VALUES, torch.zeros(3, 1))
    assert means.tolist() == [[0.0, 0.0]]
    assert owners.tolist() == [0]


@pytest.mark.recomputed("masked_mean", by="hand")
def test_counts_weigh_and_a_mask_does_not() -> None:
    counts = torch.tensor([[1], [3], [0]])
    assert masked_mean(VALUES, counts)[0].tolist() == [[4.0, 3.5]]
    assert masked_mean(VALUES, counts > 0)[0].tolist() == [[3.0, 3.0]]


@pytest.mark.recomputed("leave_one_out", by="hand")
def test_leaving_one_out_by_hand() -> None:
    teachers, has_teacher = leave_one_out(VALUES, torch.ones(3, 1, dtype=torch.bool))
    assert teachers.tolist() == [[[2.5, 3.5]], [[0.5, 2.5]], [[3.0, 3.0]]]
    assert has_teacher.all()


def test_the_only_owner_of_a_class_has_no_teacher_and_the_others_have_it() -> None:
    values = VALUES.clone()
    values[1:] = torch.nan
    teachers, has_teacher = leave_one_out(values, torch.tensor([[True], [False], [False]]))
    assert teachers.tolist() == [[[0.0, 0.0]], [[1.0, 2.0]], [[1.0, 2.0]]]
    assert has_teacher.tolist() == [[False], [True], [True]]


def test_a_class_that_nobody_owns_teaches_nobody() -> None:
    teachers, has_teacher = leave_one_out(VALUES, torch.zeros(3, 1, dtype=torch.bool))
    assert not teachers.any()
    assert not has_teacher.any()


@settings(deadline=None)
@given(st.integers(2, 9), st.integers(0, 2**31))
def test_where_all_own_a_class_teachers_sum_to_the_sum_of_values(clients: int, seed: int) -> None:
    values = torch.randn(clients, 4, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    teachers, _ = leave_one_out(values, torch.ones(clients, 4, dtype=torch.bool))
    torch.testing.assert_close(teachers.sum(0), values.sum(0))


@pytest.mark.recomputed("leave_one_out", by="formula")
@settings(deadline=None)
@given(st.integers(1, 7), st.integers(0, 2**31))
def test_leaving_one_out_is_the_masked_mean_without_that_client(clients: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    values, owned = torch.randn(clients, 5, 3, generator=rng), torch.rand(clients, 5, generator=rng) < 0.5
    teachers, has_teacher = leave_one_out(values, owned)
    for k in range(clients):
        others = owned.clone()
        others[k] = False
        means, owners = masked_mean(values, others)
        torch.testing.assert_close(teachers[k], means)
        assert torch.equal(has_teacher[k], owners > 0)


def test_masks_of_another_shape_or_type_are_refused() -> None:
    with pytest.raises(ValueError, match="write counts > 0"):
        leave_one_out(VALUES, torch.ones(3, 1))
    with pytest.raises(ValueError, match="need weights"):
        masked_mean(VALUES, torch.ones(3, 2))
