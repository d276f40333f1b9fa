"""What every loss with parameters owes: a new nn.Module in fedkd.losses.__all__ needs an example here, and no test."""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import fedkd.losses
from fedkd.losses import CRDLoss, FactorTransfer, ReviewKD, SemCKD, SSKDLoss, VIDLoss

B, C = 8, 3
IDS, LABELS = torch.tensor([3, 0, 7, 5, 9, 1, 8, 2]), torch.tensor([0, 2, 1, 0, 0, 1, 2, 2])
SHALLOW, DEEP = (3, 8, 8), (6, 4, 4)  # of the student's maps
TEACHER_SHALLOW, TEACHER_DEEP = (5, 8, 8), (8, 2, 2)

Call = Callable[[nn.Module, list[Tensor], list[Tensor]], Tensor]


def in_turn(module: Callable[..., Tensor], students: list[Tensor], teachers: list[Tensor]) -> Tensor:
    return module(*students, *teachers)


def as_lists(module: Callable[..., Tensor], students: list[Tensor], teachers: list[Tensor]) -> Tensor:
    return module(students, teachers)


def with_ids(module: Callable[..., Tensor], students: list[Tensor], teachers: list[Tensor]) -> Tensor:
    return module(*students, *teachers, IDS, torch.Generator().manual_seed(0))


def with_labels(module: Callable[..., Tensor], students: list[Tensor], teachers: list[Tensor]) -> Tensor:
    return module(*students, *teachers, LABELS)


@dataclass
class Example:
    """How a module is made and called."""

    make: Callable[[], nn.Module]
    students: list[tuple[int, ...]]
    teachers: list[tuple[int, ...]]
    call: Call = in_turn
    fixed: tuple[str, ...] = ()  # parts that forward does not train

    def tensors(self, dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], list[Tensor]]:
        """What the student gives, with a gradient, and what the teacher gives, from a graph of its own."""
        rng = torch.Generator().manual_seed(1)
        students = [torch.randn(shape, generator=rng).to(dtype).requires_grad_() for shape in self.students]
        teachers = [torch.randn(shape, generator=rng).to(dtype).requires_grad_() for shape in self.teachers]
        return students, teachers


EXAMPLES = {
    "CRDLoss": Example(lambda: CRDLoss(5, 6, samples=10, dim=8, negatives=4), [(B, 5)], [(B, 6)], with_ids),
    "FactorTransfer": Example(
        lambda: FactorTransfer(3, 8), [(B, *SHALLOW)], [(B, *TEACHER_DEEP)], fixed=("paraphraser", "decoder")
    ),
    "ReviewKD": Example(
        lambda: ReviewKD([SHALLOW, DEEP], [TEACHER_SHALLOW, TEACHER_DEEP]),
        [(B, *SHALLOW), (B, *DEEP)],
        [(B, *TEACHER_SHALLOW), (B, *TEACHER_DEEP)],
        as_lists,
    ),
    "SSKDLoss": Example(
        lambda: SSKDLoss(5, 6),
        [(4 * B, C), (4 * B, 5)],
        [(4 * B, C), (4 * B, 6)],
        with_labels,
        fixed=("teacher_head",),
    ),
    "SemCKD": Example(
        lambda: SemCKD([SHALLOW, DEEP], [TEACHER_SHALLOW, TEACHER_DEEP], batch_size=B),
        [(B, *SHALLOW), (B, *DEEP)],
        [(B, *TEACHER_SHALLOW), (B, *TEACHER_DEEP)],
        as_lists,
    ),
    "VIDLoss": Example(lambda: VIDLoss(3, 8), [(B, *SHALLOW)], [(B, *TEACHER_DEEP)]),
}


def takes_student_and_teacher(name: str) -> bool:
    """A connector takes one map and returns another: no loss."""
    value = getattr(fedkd.losses, name)
    return inspect.isclass(value) and issubclass(value, nn.Module) and len(inspect.signature(value.forward).parameters) > 2


MODULES = [name for name in fedkd.losses.__all__ if takes_student_and_teacher(name)]


@pytest.fixture(params=MODULES)
def example(request: pytest.FixtureRequest) -> Example:
    assert request.param in EXAMPLES, f"add an example of {request.param} to EXAMPLES"
    return EXAMPLES[request.param]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_is_a_finite_scalar_of_at_least_float32(example: Example, dtype: torch.dtype) -> None:
    module = example.make()
    value = example.call(module, *example.tensors(dtype))
    assert value.shape == ()
    assert value.dtype in (torch.float32, torch.promote_types(dtype, torch.float32))
    assert value.isfinite()
    assert example.call(module.double(), *example.tensors(dtype)).dtype == torch.float64


def test_the_gradient_reaches_student_and_parameters_and_never_the_teacher(example: Example) -> None:
    module = example.make()
    students, teachers = example.tensors()
    example.call(module, students, teachers).backward()
    for student in students:
        assert student.grad is not None
        assert student.grad.isfinite().all()
        assert student.grad.any()
    for name, parameter in module.named_parameters():
        assert (parameter.grad is None) == name.startswith(example.fixed or "-"), name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
        assert parameter.grad is None or parameter.grad.any() or name.endswith("bias"), name  # BatchNorm takes a bias away
    assert all(teacher.grad is None for teacher in teachers)


def test_the_state_dict_is_the_whole_state(example: Example) -> None:
    module, other = example.make(), example.make()
    first = example.call(module, *example.tensors())  # moves banks and running statistics
    assert example.call(other, *example.tensors()).item() != first.item()
    other.load_state_dict(module.state_dict())
    for mode in (False, True):
        value, same = (example.call(each.train(mode), *example.tensors()) for each in (module, other))
        assert value.item() == same.item()


def test_nothing_moves_in_evaluation(example: Example) -> None:
    module = example.make()
    before = copy.deepcopy(module.state_dict())
    example.call(module.eval(), *example.tensors())
    after = module.state_dict()
    assert all(torch.equal(before[name].nan_to_num(), after[name].nan_to_num()) for name in before)


def test_is_the_same_inside_an_autocast_region(example: Example) -> None:
    module = example.make()
    outside = example.call(copy.deepcopy(module), *example.tensors(torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        inside = example.call(module, *example.tensors(torch.bfloat16))
    assert inside.dtype == torch.float32
    assert inside.item() == outside.item()


def test_20_steps_of_an_optimizer_bring_it_down(example: Example) -> None:
    module = example.make()
    students, teachers = example.tensors()
    optimizer = torch.optim.Adam([*students, *module.parameters()], lr=0.05)
    losses = []
    for _ in range(21):
        optimizer.zero_grad()
        loss = example.call(module, students, teachers)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_extreme_inputs_are_survived(example: Example) -> None:
    for scale in (0.0, 1e4):
        module = example.make()
        students, teachers = example.tensors()
        scaled = [student.detach().mul(scale).requires_grad_() for student in students]
        value = example.call(module, scaled, [teacher.detach() * scale for teacher in teachers])
        value.backward()
        assert value.isfinite()
        assert all(student.grad is not None and student.grad.isfinite().all() for student in scaled)
