"""What every loss owes, whichever file it is in: a new name in fedkd.losses.__all__ is tested here without an edit."""

import doctest
import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fedkd.losses
from fedkd.losses.precision import at_least_float32

B, D, C = 6, 5, 4
MAP = (3, 4, 4)  # channels, height, width
#: Public names that are no losses: what goes into one, and modules with parameters, which have a test of their own.
LOSSES = [
    value
    for name in fedkd.losses.__all__
    if inspect.isfunction(value := getattr(fedkd.losses, name))
    and name.endswith(("_loss", "_term", "_mse", "_mae", "_entropy"))
]
#: What a teacher gives, by the names that losses use: a constant, even where it comes with a graph.
TEACHERS = ("teacher", "teachers", "partner", "target_probabilities", "prototypes", "positive", "negative", "queue")


def example(loss: Callable[..., Tensor], dtype: torch.dtype) -> dict[str, Any]:
    """Arguments for a loss, by the names that losses use; parameters with a default keep it.

    What a student gives has the shape that the loss's docstring says: logits, embeddings, a map or two maps.
    """
    rng = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng).to(dtype)

    shape = {"two maps": (B, *MAP), "(B, c": (B, *MAP), "(B, D": (B, D)}
    said = (inspect.getdoc(loss) or "").partition("student: ")[2]
    kind = next((start for start in shape if said.startswith(start)), "(B, C")
    pair = [draw(*shape.get(kind, (B, C))) for _ in range(4)]
    images = draw(B, *MAP).requires_grad_()
    net = nn.Linear(3, 2).to(dtype)
    values: dict[str, Any] = {
        "a": draw(B, D).requires_grad_(),
        "b": draw(B, D).requires_grad_(),
        "anchors": draw(B + 1, D).requires_grad_(),
        "embeddings": draw(B, D).requires_grad_(),
        "logits": draw(B, C).requires_grad_(),
        "student_logits": draw(B, C).requires_grad_(),
        "student": tuple(part.requires_grad_() for part in pair[:2]) if kind == "two maps" else pair[0].requires_grad_(),
        "teacher": tuple(pair[2:]) if kind == "two maps" else pair[1],
        "teachers": (draw(B, D), draw(B, D + 1), draw(B, D)),
        "triplets": torch.tensor([[0, 1, 2], [3, 4, 5], [5, 0, 3]]),
        "partner": draw(B, C),
        "target_probabilities": draw(B, C).softmax(1),
        "labels": torch.tensor([0, 1, 2, 3, 0, 1]),
        "features": draw(B, D).requires_grad_(),
        "prototypes": draw(C, D),
        "majority": torch.tensor([True, False, False, False]),
        "known": torch.tensor([True, True, False, True]),
        "projected": draw(B, D).requires_grad_(),
        "positive": draw(B, D),
        "negative": draw(B, D),
        "concentrations": torch.tensor([0.1, 0.2, 0.1, 0.4]),
        "queue": draw(2 * B, D),
        "margin": -draw(MAP[0]).abs(),
        "net": net,
        "reference": {name: torch.zeros_like(parameter) for name, parameter in net.named_parameters()},
        "temperature": 0.1,
        "target_temperature": 0.2,
        "noise": draw(B, D),
        "samples": draw(B, *MAP).requires_grad_(),
    }
    needed = [p.name for p in inspect.signature(loss).parameters.values() if p.default is p.empty]
    if "images" in needed:  # logits that images lead to
        student, teacher = (draw(math.prod(MAP), C) for _ in range(2))
        values["images"] = images
        values["student"] = images.flatten(1).tanh() @ student
        values["teacher"] = images.flatten(1).tanh() @ teacher
    assert set(needed) <= set(values), f"add an example of {set(needed) - set(values)} to this function"
    return {name: values[name] for name in needed}


def tensors(value: Any) -> list[Tensor]:
    """The tensors of an argument, which may be a pair of maps or a net."""
    if isinstance(value, nn.Module):
        return list(value.parameters())
    return list(value) if isinstance(value, tuple) else [value] if isinstance(value, Tensor) else []


def trained(arguments: dict[str, Any]) -> list[Tensor]:
    """The leaves that learn."""
    return [tensor for value in arguments.values() for tensor in tensors(value) if tensor.requires_grad and tensor.is_leaf]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_is_a_finite_scalar_of_at_least_float32_with_finite_gradients(loss: Callable[..., Tensor], dtype: torch.dtype) -> None:
    arguments = example(loss, dtype)
    value = loss(**arguments)
    assert value.shape == ()
    assert value.dtype == torch.promote_types(dtype, torch.float32)
    assert value.isfinite()
    value.backward()
    for tensor in trained(arguments):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.any()


@pytest.mark.parametrize("loss", LOSSES)
def test_is_the_same_inside_an_autocast_region(loss: Callable[..., Tensor]) -> None:
    arguments = example(loss, torch.float32)
    outside = loss(**arguments)
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(**arguments)
    assert inside.dtype == torch.float32
    assert inside.item() == outside.item()


@pytest.mark.parametrize("loss", LOSSES)
def test_teaches_the_student_and_never_the_teacher(loss: Callable[..., Tensor]) -> None:
    arguments = example(loss, torch.float32)
    teachers = [tensor for name in arguments if name in TEACHERS for tensor in tensors(arguments[name])]
    leaves = [teacher.requires_grad_() for teacher in teachers if teacher.is_leaf]
    loss(**arguments).backward()
    assert all(teacher.grad is None for teacher in leaves)


@pytest.mark.parametrize("loss", LOSSES)
def test_docstring_shows_an_example_that_runs(loss: Callable[..., Tensor]) -> None:
    (found,) = doctest.DocTestFinder(recurse=False).find(loss, loss.__name__, globs=dict(vars(inspect.getmodule(loss))))
    assert found.examples
    assert doctest.DocTestRunner().run(found).failed == 0


def test_at_least_float32_does_not_copy_what_is_good_enough() -> None:
    tensor = torch.zeros(3)
    assert at_least_float32(tensor) is tensor
