"""SSKD: rotations, the three terms in loops, what they leave out, and the teacher's head."""

import math

import pytest
import torch
from torch import Tensor, nn

from fedkd.losses import SSKDLoss, rotations
from fedkd.losses.self_supervision import most_correct


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def unit(x: Tensor) -> Tensor:
    return x / x.norm()


def softmax(logits: list[float], temperature: float) -> list[float]:
    total = sum(math.exp(logit / temperature) for logit in logits)
    return [math.exp(logit / temperature) / total for logit in logits]


def divergence(teacher: list[list[float]], student: list[list[float]], temperature: float) -> float:
    """T^2 times the mean over rows of the KL divergence, 0 without rows."""
    total = 0.0
    for t, s in zip(teacher, student, strict=True):
        pairs = zip(softmax(t, temperature), softmax(s, temperature), strict=True)
        total += temperature**2 * sum(p * math.log(p / q) for p, q in pairs) / len(teacher)
    return total


LABELS = torch.tensor([0, 2, 1])


def arguments() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return draw(0, 12, 4), draw(1, 12, 3), draw(2, 12, 4), draw(3, 12, 5), LABELS


@pytest.mark.recomputed("SSKDLoss", by="formula")
@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
def test_equals_the_definition(ratio: float) -> None:
    sskd = SSKDLoss(3, 5, tf_ratio=ratio, ss_ratio=ratio, ss_temperature=0.5).double()
    student_logits, student_features, teacher_logits, teacher_features, labels = arguments()
    upright, turned = [0, 4, 8], [1, 2, 3, 5, 6, 7, 9, 10, 11]

    def cosines(head: nn.Module, features: Tensor) -> list[list[float]]:
        rows = [unit(head(row)).detach() for row in features]
        return [[float(rows[i] @ rows[j]) for j in upright] for i in turned]

    def kept(scores: list[list[float]], answers: list[int]) -> list[int]:
        """Rows in the order of the rank of their answer: the right ones and a share of the wrong ones."""
        ranks = [sorted(row, reverse=True).index(row[answer]) for row, answer in zip(scores, answers, strict=True)]
        right = ranks.count(0)
        return sorted(range(len(ranks)), key=ranks.__getitem__)[: right + int(ratio * (len(ranks) - right))]

    s, t = student_logits[turned].tolist(), teacher_logits[turned].tolist()
    tf = kept(t, [labels.tolist()[i // 4] for i in turned])
    own, target = cosines(sskd.student_head, student_features), cosines(sskd.teacher_head, teacher_features)
    ss = kept(target, [i // 4 for i in turned])
    expected = {
        "kd": divergence(teacher_logits[upright].tolist(), student_logits[upright].tolist(), 4.0),
        "tf": divergence([t[i] for i in tf], [s[i] for i in tf], 4.0),
        "ss": divergence([target[i] for i in ss], [own[i] for i in ss], 0.5),
    }
    parts = sskd.parts(*arguments())
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(expected, abs=1e-9)
    weighted = 0.9 * expected["kd"] + 2.7 * expected["tf"] + 10.0 * expected["ss"]
    assert sskd(*arguments()).item() == pytest.approx(weighted, abs=1e-9)


def test_a_teacher_that_is_never_right_teaches_no_rotation_at_a_ratio_of_0() -> None:
    sskd = SSKDLoss(3, 5, tf_ratio=0.0).double()
    student_logits, student_features, _, teacher_features, labels = arguments()
    student_logits.requires_grad_()
    wrong = torch.eye(4, dtype=torch.float64)[torch.tensor([1, 0, 2]).repeat_interleave(4)]
    tf = sskd.parts(student_logits, student_features, wrong, teacher_features, labels)["tf"]
    tf.backward()
    assert tf.item() == 0
    assert student_logits.grad is not None
    assert not student_logits.grad.any()


def test_the_least_wrong_rows_are_kept_and_ties_go_by_position() -> None:
    scores = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 0.0], [3.0, 1.0, 2.0], [0.0, 1.0, 0.0]])  # of answer 0: 2, 1, 0, 1
    answers = torch.zeros(4, dtype=torch.int64)
    kept = [most_correct(scores, answers, ratio).tolist() for ratio in (0.0, 0.34, 0.67, 1.0)]
    assert kept == [[2], [2, 1], [2, 1, 3], [2, 1, 3, 0]]


@pytest.mark.recomputed("rotations", by="formula")
def test_rotations_are_interleaved_and_counter_clockwise() -> None:
    images = torch.randn(2, 3, 4, 4)
    turned = rotations(images)
    for i in range(2):
        for r in range(4):
            assert torch.equal(turned[4 * i + r], torch.rot90(images[i], r, (1, 2)))
    assert torch.equal(rotations(turned[1::4])[3::4], images)  # one and three turns


def test_the_teachers_head_learns_to_match_rotations_to_images() -> None:
    sskd, teacher = SSKDLoss(3, 5), torch.randn(12, 5, requires_grad=True)
    rows = [unit(row) for row in sskd.teacher_head(teacher).detach()]
    expected = 0.0
    for i in (1, 2, 3, 5, 6, 7, 9, 10, 11):
        scores = [float(rows[i] @ rows[j]) for j in (0, 4, 8)]
        expected -= math.log(softmax(scores, 1.0)[i // 4]) / 9
    loss = sskd.teacher_head_loss(teacher)
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert teacher.grad is None
    trained = {name.split(".")[0] for name, parameter in sskd.named_parameters() if parameter.grad is not None}
    assert trained == {"teacher_head"}


def test_wrong_arguments_are_named() -> None:
    sskd = SSKDLoss(3, 5).double()
    student_logits, student_features, teacher_logits, teacher_features, labels = arguments()
    with pytest.raises(ValueError, match=r"student logits is \(12, 4\); expected \(8, C\)"):
        sskd(student_logits, student_features, teacher_logits, teacher_features, labels[:2])
    with pytest.raises(ValueError, match=r"teacher features is \(12, 3\); expected \(12, 5\)"):
        sskd(student_logits, student_features, teacher_logits, student_features, labels)
    with pytest.raises(ValueError, match="7 rows are not 4 rotations of each image"):
        sskd.teacher_head_loss(teacher_features[:7])
    with pytest.raises(ValueError, match=r"rotations: images is \(1, 1, 2, 3\); expected \(B, c, h, 2\)"):
        rotations(torch.ones(1, 1, 2, 3))
