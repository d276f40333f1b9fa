"""Semantic calibration against the definition in loops; the batch size that it keeps."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.losses import SemCKD

SHAPES = ([(2, 4, 4), (3, 2, 2)], [(4, 4, 4), (5, 2, 2), (6, 2, 2)])


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def unit(x: Tensor) -> Tensor:
    return x / x.norm()


def maps(batch: int = 8) -> tuple[list[Tensor], list[Tensor]]:
    students = [draw(seed, batch, *shape) for seed, shape in enumerate(SHAPES[0])]
    return students, [draw(9 + seed, batch, *shape) for seed, shape in enumerate(SHAPES[1])]


@pytest.mark.recomputed("SemCKD", by="formula")
def test_equals_the_definition() -> None:
    semckd = SemCKD(*SHAPES, batch_size=8).double()
    students, teachers = maps()

    def embed(perceptron: nn.Module, maps: Tensor, b: int) -> Tensor:
        return unit(perceptron(torch.stack([maps[b].flatten() @ other.flatten() for other in maps])))

    expected = 0.0
    for i, student in enumerate(students):
        for b in range(8):
            query = embed(semckd.queries[i], student, b)
            energy = [(query @ embed(key, teacher, b)).exp() for key, teacher in zip(semckd.keys, teachers, strict=True)]
            for j, teacher in enumerate(teachers):
                size = min(student.shape[2], teacher.shape[2])
                prediction = semckd.regressors[3 * i + j](F.adaptive_avg_pool2d(student, size))
                error = (prediction[b] - F.adaptive_avg_pool2d(teacher, size)[b]).square().mean()
                expected += (energy[j] / sum(energy) * error).item() / (8 * 2)
    assert semckd(students, teachers).item() == pytest.approx(expected, abs=1e-9)


def test_of_one_teacher_layer_the_attention_is_1_and_learns_nothing() -> None:
    semckd = SemCKD([(2, 4, 4)], [(3, 4, 4)], batch_size=8).double()
    student, teacher = draw(0, 8, 2, 4, 4), draw(1, 8, 3, 4, 4)
    loss = semckd([student], [teacher])
    loss.backward()
    torch.testing.assert_close(loss, F.mse_loss(semckd.regressors[0](student), teacher))
    assert not any(parameter.grad.any() for parameter in semckd.keys.parameters() if parameter.grad is not None)


def test_a_smaller_last_batch_is_refused_with_the_cure() -> None:
    semckd = SemCKD(*SHAPES, batch_size=9).double()
    with pytest.raises(ValueError, match=r"made for batches of 9, this one has 8: drop the last batch \(drop_last=True\)"):
        semckd(*maps())


def test_other_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="0 student and 3 teacher layers, batches of 8"):
        SemCKD([], SHAPES[1], 8)
    students, teachers = maps()
    semckd = SemCKD(*SHAPES, batch_size=8).double()
    with pytest.raises(ValueError, match="1 student maps; made for 2"):
        semckd(students[:1], teachers)
    with pytest.raises(ValueError, match=r"teacher map 1 is \(8, 4, 4, 4\); expected \(B, 5, 2, 2\)"):
        semckd(students, [teachers[0]] * 3)
