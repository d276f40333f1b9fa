"""Contrastive representation distillation: the definition in loops, the banks, the constants and the negatives."""

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.losses import CRDLoss

IDS = torch.tensor([4, 0, 7])


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def unit(x: Tensor) -> Tensor:
    return x / x.norm()


def module(**options: Any) -> CRDLoss:
    return CRDLoss(3, 5, 9, dim=4, negatives=6, **options).double()


@pytest.mark.recomputed("CRDLoss", by="formula")
def test_equals_the_definition() -> None:
    crd, rng = module(temperature=0.5), torch.Generator()
    student, teacher = draw(0, 3, 3), draw(1, 3, 5)
    banks = {"student": crd.teacher_bank.clone(), "teacher": crd.student_bank.clone()}  # each meets the other's
    rows = {
        "student": [unit(crd.student_embedding(x)) for x in student],
        "teacher": [unit(crd.teacher_embedding(x)) for x in teacher],
    }
    negatives = crd.draw(IDS, rng.manual_seed(3))
    expected, noise = 0.0, 6 / 9
    for side, bank in banks.items():
        chosen = [[own, *others] for own, others in zip(IDS.tolist(), negatives.tolist(), strict=True)]
        raw = [[math.exp(row.detach() @ bank[j] / 0.5) for j in ids] for row, ids in zip(rows[side], chosen, strict=True)]
        z = 9 * sum(map(sum, raw)) / (3 * 7)
        for own, *others in raw:
            expected -= math.log(own / z / (own / z + noise + 1e-7)) / 3
            expected -= sum(math.log(noise / (x / z + noise + 1e-7)) for x in others) / 3
    assert crd(student, teacher, IDS, rng.manual_seed(3)).item() == pytest.approx(expected, abs=1e-9)


def test_the_constants_are_set_by_the_first_training_batch_and_kept() -> None:
    crd = module().eval()
    crd(draw(0, 3, 3), draw(1, 3, 5), IDS)
    assert crd.log_partition.isnan().all()
    crd.train()(draw(0, 3, 3), draw(1, 3, 5), IDS)
    first = crd.log_partition.clone()
    assert first.isfinite().all()
    crd(draw(2, 3, 3), draw(3, 3, 5), IDS)
    assert torch.equal(crd.log_partition, first)


def test_the_banks_rows_move_by_the_momentum_and_stay_of_length_1() -> None:
    crd = module(momentum=0.25)
    before = crd.student_bank.clone()
    student = draw(0, 3, 3)
    crd(student, draw(1, 3, 5), IDS)
    for row, i in enumerate(IDS.tolist()):
        expected = unit(0.25 * before[i] + 0.75 * unit(crd.student_embedding(student[row])))
        torch.testing.assert_close(crd.student_bank[i], expected)
    others = [i for i in range(9) if i not in IDS.tolist()]
    assert torch.equal(crd.student_bank[others], before[others])


def test_negatives_without_labels_are_all_but_the_own_sample_equally_often() -> None:
    crd = CRDLoss(3, 5, 4, dim=2, negatives=3000)
    drawn = crd.draw(torch.tensor([1, 3]), torch.Generator().manual_seed(0))
    counts = torch.stack([row.bincount(minlength=4) for row in drawn])
    assert counts[0, 1] == counts[1, 3] == 0
    assert counts[counts > 0].tolist() == pytest.approx([1000] * 6, rel=0.1)


def test_negatives_with_labels_are_of_other_classes_each_once_while_there_are_enough() -> None:
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 2, 2, 2])  # the largest class leaves five
    enough = CRDLoss(3, 5, 9, labels=labels, dim=2, negatives=5)
    drawn = enough.draw(IDS, torch.Generator().manual_seed(0))
    assert (labels[drawn] != labels[IDS][:, None]).all()
    assert all(len(row.unique()) == 5 for row in drawn)
    short = CRDLoss(3, 5, 9, labels=labels, dim=2, negatives=50)
    drawn = short.draw(IDS, torch.Generator().manual_seed(0))
    assert (labels[drawn] != labels[IDS][:, None]).all()


def test_the_generator_alone_decides_the_negatives() -> None:
    crd, again = module(), None
    for _ in range(2):
        rng = torch.Generator().manual_seed(5)
        again, before = crd.draw(IDS, rng), again
    assert before is not None
    assert torch.equal(before, again)
    assert not torch.equal(again, crd.draw(IDS, rng))


@pytest.mark.parametrize("temperature", [0.01, 0.001])
def test_is_finite_where_the_exponential_overflows(temperature: float) -> None:
    crd = CRDLoss(3, 5, 9, dim=4, negatives=6, temperature=temperature)
    student = torch.randn(3, 3, requires_grad=True)
    crd.teacher_bank[IDS] = F.normalize(crd.student_embedding(student), dim=1).detach()  # cosines of 1
    loss = crd(student, torch.randn(3, 5), IDS)
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="1 samples have no negatives"):
        CRDLoss(3, 5, 1)
    with pytest.raises(ValueError, match="all labels are of one class"):
        CRDLoss(3, 5, 9, labels=torch.zeros(9))
    with pytest.raises(ValueError, match=r"CRDLoss: labels is \(8,\); expected \(9\)"):
        CRDLoss(3, 5, 9, labels=torch.arange(8))
    with pytest.raises(ValueError, match=r"CRDLoss: ids is \(2,\); expected \(3\)"):
        module()(draw(0, 3, 3), draw(1, 3, 5), IDS[:2])


def test_a_copy_is_independent() -> None:
    crd = CRDLoss(2, 3, 9, dim=4, negatives=3)
    other = copy.deepcopy(crd)
    crd(torch.randn(2, 2), torch.randn(2, 3), torch.tensor([1, 2]))
    assert not torch.equal(crd.student_bank, other.student_bank)
    assert other.log_partition.isnan().all()


def test_an_id_that_is_no_position_is_refused() -> None:
    far = torch.tensor([4, 0, 9])
    with pytest.raises(RuntimeError, match="out of bounds"):
        module()(draw(0, 3, 3), draw(1, 3, 5), far)
    with pytest.raises(IndexError, match="out of bounds"):
        module(labels=torch.arange(9))(draw(0, 3, 3), draw(1, 3, 5), far)
