"""UHC: from teachers of some classes each, the distribution over all, where there is one, and the best fit where not."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from fedkd.losses import unify_loss
from fedkd.targets import unify

B = 5
#: Which classes of six each teacher knows, so that chains of shared classes join all.
JOINED = {
    "everyone knows all": [range(6), range(6)],
    "a chain of single classes": [[0, 1, 2], [2, 3], [5, 4, 3]],
    "a ring": [[0, 1], [1, 2], [2, 3], [3, 4], [4, 5], [5, 0]],
    "one among all": [range(6), [1], [4, 0], [4, 0]],
}
joined = pytest.mark.parametrize("class_ids", JOINED.values(), ids=JOINED.keys())


def random_logits(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def restricted(joint: Tensor, class_ids: list[list[int]]) -> list[Tensor]:
    """Logits of teachers who know the joint distribution on their classes, each with its own shift."""
    return [joint.log()[:, list(ids)] + shift for shift, ids in enumerate(class_ids)]


@pytest.mark.recomputed("unify", by="formula")
@joined
@pytest.mark.parametrize("scale", [0.1, 2.0, 50.0])
def test_restrictions_of_a_joint_distribution_give_it_back(class_ids: list[list[int]], scale: float) -> None:
    joint = (scale * random_logits(0, B, 6)).softmax(1)
    unified = unify(restricted(joint, class_ids), class_ids, 6)
    assert unified.kind == "probabilities"
    torch.testing.assert_close(unified.values, joint, rtol=1e-6, atol=1e-12)


@joined
def test_a_temperature_softens_the_joint_distribution(class_ids: list[list[int]]) -> None:
    joint = (2 * random_logits(1, B, 6)).softmax(1)
    softened = (joint.log() / 3).softmax(1)
    torch.testing.assert_close(unify(restricted(joint, class_ids), class_ids, 6, temperature=3.0).values, softened)


@pytest.mark.recomputed("unify", by="formula")
@joined
@pytest.mark.parametrize("scale", [0.1, 2.0, 8.0])
def test_where_teachers_contradict_each_other_nothing_fits_better(class_ids: list[list[int]], scale: float) -> None:
    """The gradient of the convex cross-entropy in the logits of the result vanishes."""
    logits = [scale * random_logits(seed, B, len(ids)) for seed, ids in enumerate(class_ids)]
    u = unify(logits, class_ids, 6).values.log().requires_grad_()
    loss = torch.zeros((), dtype=torch.float64)
    for teacher, ids in zip(logits, class_ids, strict=True):
        loss = loss - (teacher.softmax(1) * u[:, list(ids)].log_softmax(1)).sum()
    (gradient,) = torch.autograd.grad(loss, u)
    assert gradient.abs().amax() < 1e-9


def test_a_student_that_minimises_the_loss_of_all_teachers_arrives_at_the_target() -> None:
    logits = random_logits(5, 3, B, 4)
    mask = torch.tensor([[True, True, False, False], [False, True, True, False], [True, False, True, True]])
    student = unify(logits, mask, 4, temperature=2.0).logits(2.0).requires_grad_()
    unify_loss(student, logits, mask, temperature=2.0).backward()
    assert student.grad is not None
    assert student.grad.abs().amax() < 1e-9


@pytest.mark.recomputed("unify", by="hand")
def test_two_teachers_that_share_a_class_by_hand() -> None:
    logits = [torch.tensor([[1.0, 2.0]]).log(), torch.tensor([[1.0, 3.0]]).log()]  # 1 : 2 and 1 : 3
    expected = torch.tensor([[1.0, 2.0, 6.0]]) / 9
    torch.testing.assert_close(unify(logits, [[0, 1], [1, 2]], 3).values, expected)


def test_contradicting_teachers_of_the_same_classes_give_their_mean() -> None:
    logits = random_logits(2, 3, B, 4)
    torch.testing.assert_close(unify(logits, [range(4)] * 3, 4).values, logits.softmax(2).mean(0))


def test_groups_that_no_shared_class_joins_get_mass_by_their_number_of_classes_and_unknown_classes_none() -> None:
    logits = [random_logits(seed, B, size) for seed, size in enumerate((2, 3, 2))]
    unified = unify(logits, [[6, 0], [1, 2, 3], [0, 4]], 8).values  # groups {0, 4, 6} and {1, 2, 3}; nobody knows 5 and 7
    torch.testing.assert_close(unified[:, [0, 4, 6]].sum(1), torch.full((B,), 0.5).double())
    torch.testing.assert_close(unified[:, [1, 2, 3]], logits[1].softmax(1) / 2)
    assert not unified[:, [5, 7]].any()


def test_a_long_chain_joins_its_ends() -> None:
    class_ids = [list(pair) for pair in pairwise(range(40))]
    joint = random_logits(3, B, 40).softmax(1)
    torch.testing.assert_close(unify(restricted(joint, class_ids), class_ids, 40).values, joint)


def test_a_mask_says_the_same_as_a_list_and_unknown_classes_are_not_read() -> None:
    mask = torch.tensor([[True, False, True, True], [False, True, True, False]])
    full = random_logits(4, 2, B, 4)
    expected = unify([full[0][:, [3, 0, 2]], full[1][:, [1, 2]]], [[3, 0, 2], [1, 2]], 4).values
    full[~mask[:, None].expand(-1, B, -1)] = math.nan
    torch.testing.assert_close(unify(full, mask, 4).values, expected)


def test_what_two_teachers_all_but_exclude_still_compares_the_rest() -> None:
    """Class 1 has a probability of 1e-30 beside 0, and of 1e-28 beside 2: then 0 is a hundred times likelier than 2."""
    logits = [torch.tensor([[0.0, math.log(1e-30)]]).double(), torch.tensor([[math.log(1e-28), 0.0]]).double()]
    torch.testing.assert_close(unify(logits, [[0, 1], [1, 2]], 3).values[0, [0, 2]], torch.tensor([100, 1]).double() / 101)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_teachers_that_are_certain_of_contradictions_give_something_finite(dtype: torch.dtype) -> None:
    ring = [[0, 1], [1, 2], [2, 0]]
    sure = [torch.tensor([[1e4, -1e4]], dtype=dtype)] * 3  # 0 beats 1, 1 beats 2, 2 beats 0
    torch.testing.assert_close(unify(sure, ring, 3).values, torch.full((1, 3), 1 / 3, dtype=dtype))
    half = unify([sure[0], -sure[0]], [[0, 1], [0, 1]], 2).values
    torch.testing.assert_close(half, torch.full((1, 2), 0.5, dtype=dtype))


@pytest.mark.parametrize(
    ("logits", "class_ids", "message"),
    [
        ([], [], "the class ids of 0 teachers"),
        ([torch.zeros(2, 2)], [[0, 1], [1, 2]], "the class ids of 2 teachers, and the logits of 1"),
        ([torch.zeros(2, 2)], [[0, 0]], r"distinct and below 3, not \[0, 0\]"),
        ([torch.zeros(2, 2)], [[0, 3]], r"below 3, not \[0, 3\]"),
        ([torch.zeros(2, 0)], [[]], "one or more"),
        ([torch.zeros(2, 2)], [[0, 1, 2]], r"3 class ids need logits \(2, 3\), not \(2, 2\)"),
        ([torch.zeros(2, 2), torch.zeros(1, 2)], [[0, 1], [1, 2]], r"logits \(2, 2\), not \(1, 2\)"),
        (torch.zeros(2, 1, 4), torch.ones(2, 4, dtype=torch.bool), r"a mask \(2, 4\) needs"),
        (torch.zeros(1, 2, 3), torch.tensor([[0, 1, 2]]), "a bool mask"),
    ],
)
def test_class_ids_that_do_not_fit_are_refused(logits: list[Tensor], class_ids: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unify(logits, class_ids, 3)


def test_a_temperature_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unify: temperature -1.0 is not positive"):
        unify([torch.zeros(1, 2)], [[0, 1]], 2, temperature=-1.0)
