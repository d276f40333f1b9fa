"""What every distiller owes, shipped or added: a new entry of DISTILLERS is tested here without being named."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from fedkd import InputError
from fedkd.base.randomness import seeded
from fedkd.losses.distillers import DISTILLERS, Distiller, Pairing, Shown
from fedkd.losses.distillers.recipe import NEEDS
from fedkd.nets import Net, Outputs, build_net

B, C = 8, 10
IDS = torch.arange(100, 100 + 3 * B)  # of all samples; each batch is a third of them
LABELS = torch.arange(3 * B) % C
STUDENT = {"channels": [4, 8], "hidden": 16}


def net(name: str, options: Mapping[str, Any]) -> Net:
    with seeded(0):
        return build_net(name, shape=(1, 8, 8), classes=C, options=options)


def student() -> Net:
    return net("cnn", STUDENT)


@pytest.fixture(scope="module")
def teacher() -> Net:
    """With parameters that could learn, so that a distiller which lets a gradient through is found."""
    return net("resnet18", {"width": 8}).eval()


def batch(recipe: str, number: int = 0) -> Shown:
    """Images, of which a gradient can be asked where the recipe wants one."""
    rows = slice(number * B, (number + 1) * B)
    images = torch.randn(B, 1, 8, 8, generator=torch.Generator().manual_seed(number))
    return Shown(images.requires_grad_("inputs" in DISTILLERS[recipe].needs), LABELS[rows], IDS[rows])


def made(name: str, student: Net, teacher: Net, **changes: Any) -> Distiller:
    shown = batch(name)
    with torch.no_grad(), seeded(1):
        pairing = Pairing(student.outputs(shown.inputs), teacher.outputs(shown.inputs), 4.0, IDS, LABELS, B)
        return DISTILLERS[name].make(dataclasses.replace(pairing, **changes))


def part(outputs: Outputs, rows: slice) -> Outputs:
    features = None if outputs.features is None else outputs.features[rows]
    return Outputs(outputs.logits[rows], features, tuple(held[rows] for held in outputs.maps))


def value(distiller: Distiller, student: Net, teacher: Net, shown: Shown) -> torch.Tensor:
    """The loss; losses with random negatives draw the same ones each time."""
    with seeded(2):
        loss: torch.Tensor = distiller(student.outputs(shown.inputs), teacher.outputs(shown.inputs), shown)
    return loss


NAMES = sorted(DISTILLERS)


def without(*needs: str) -> list[str]:
    """The distillers that say they need none of these."""
    return [name for name in NAMES if not DISTILLERS[name].needs & set(needs)]


@pytest.mark.parametrize("name", NAMES)
def test_teaches_the_student_and_itself_and_never_the_teacher(name: str, teacher: Net) -> None:
    own = student()
    distiller = made(name, own, teacher)
    loss = value(distiller, own, teacher, batch(name))
    assert loss.shape == ()
    assert loss.isfinite()
    loss.backward()
    learning = [parameter.grad for parameter in own.parameters() if parameter.grad is not None]
    assert any(bool(gradient.any()) for gradient in learning)
    for label, parameter in distiller.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.any()), label
        learning.append(parameter.grad)
    assert all(bool(gradient.isfinite().all()) for gradient in learning)
    assert all(parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_needs_are_words_that_the_framework_knows(name: str) -> None:
    assert DISTILLERS[name].needs <= set(NEEDS)
    assert DISTILLERS[name].weight > 0


@pytest.mark.parametrize("name", without("labels"))
def test_one_that_needs_no_labels_does_not_look_at_them(name: str, teacher: Net) -> None:
    own = student()
    shown = batch(name)
    blind = dataclasses.replace(shown, labels=torch.full((B,), -1))
    values = [
        value(made(name, own, teacher, labels=labels), own, teacher, given).item()
        for labels, given in ((LABELS, shown), (torch.full_like(LABELS, -1), blind))
    ]
    assert values[0] == values[1]


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(without("labels"))))
def test_one_that_needs_labels_hears_other_ones(name: str, teacher: Net) -> None:
    own = student()
    other = (LABELS + 1) // 2  # not only other names of the same classes
    moved = dataclasses.replace(batch(name), labels=other[:B])
    given = value(made(name, own, teacher), own, teacher, batch(name))
    assert value(made(name, own, teacher, labels=other), own, teacher, moved).item() != given.item()


@pytest.mark.parametrize("name", without("whole batch", "memory"))
def test_one_that_needs_no_whole_batch_is_a_mean_over_samples(name: str, teacher: Net) -> None:
    """In eval mode, as the batch statistics of a connector relate samples too."""
    own = student().eval()
    distiller, shown = made(name, own, teacher).eval(), batch(name)
    outputs = [net.outputs(shown.inputs) for net in (own, teacher)]
    halves = []
    for rows in (slice(0, B // 2), slice(B // 2, B)):
        images = shown.inputs[rows].detach().requires_grad_("inputs" in DISTILLERS[name].needs)
        half = Shown(images, shown.labels[rows], shown.ids[rows])
        given = [net.outputs(images) for net in (own, teacher)] if images.requires_grad else [part(o, rows) for o in outputs]
        halves.append(distiller(*given, half))
    torch.testing.assert_close(distiller(*outputs, shown), sum(halves) / 2, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", without("memory"))
def test_one_without_memory_says_the_same_twice(name: str, teacher: Net) -> None:
    own = student()
    distiller = made(name, own, teacher)
    first, second = (value(distiller, own, teacher, batch(name)).item() for _ in range(2))
    assert first == second


@pytest.mark.parametrize("name", without("features", "maps"))
def test_one_on_logits_is_content_with_logits(name: str, teacher: Net) -> None:
    own = student()
    shown = batch(name)
    bare = [Outputs(net(shown.inputs)) for net in (own, teacher)]
    distiller = DISTILLERS[name].make(Pairing(*bare, 4.0, IDS, LABELS, B))
    torch.testing.assert_close(distiller(*bare, shown), value(made(name, own, teacher), own, teacher, shown))


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(without("features", "maps"))))
def test_one_on_features_or_maps_says_in_a_line_that_logits_are_not_enough(name: str, teacher: Net) -> None:
    bare = [Outputs(net(batch(name).inputs)) for net in (student(), teacher)]
    with pytest.raises(InputError, match=r"this loss reads (two )?feature.*: (choose|take) ") as error:
        DISTILLERS[name].make(Pairing(*bare, 4.0, IDS, LABELS, B))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_option_is_named(name: str, teacher: Net) -> None:
    with pytest.raises(InputError, match="has no option 'unheard_of'"):
        made(name, student(), teacher, options={"unheard_of": 1})


@pytest.mark.parametrize("name", NAMES)
def test_a_few_steps_lower_it(name: str, teacher: Net) -> None:
    """Of the student and of what the distiller learns itself, on one batch, for which the teacher is always right."""
    own, shown = student(), batch(name)
    distiller = made(name, own, teacher)
    shown = dataclasses.replace(shown, labels=teacher(shown.inputs).argmax(1))
    optimizer = torch.optim.Adam([*own.parameters(), *distiller.parameters()], lr=3e-3)
    values = []
    for _ in range(4):
        loss = value(distiller, own, teacher, shown)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < values[0]


@pytest.mark.parametrize("name", NAMES)
def test_goes_on_from_its_state_dict_as_if_it_had_never_stopped(name: str, teacher: Net) -> None:
    own = student()
    distiller = made(name, own, teacher)
    value(distiller, own, teacher, batch(name))  # banks and queues fill
    with seeded(3):
        other = made(name, own, teacher)
    other.load_state_dict(distiller.state_dict())
    expected, found = (value(each, own, teacher, batch(name, 1)).item() for each in (distiller, other))
    assert found == expected


@pytest.mark.parametrize("name", without("labels", "features", "maps"))
def test_a_temperature_reaches_the_losses_that_soften_logits(name: str, teacher: Net) -> None:
    recipe = DISTILLERS[name]
    assert recipe.settings(2.0, {}) in ({"temperature": 2.0}, {})
    if "temperature" in recipe.settings(2.0, {}):
        own = student()
        warm, cold = (made(name, own, teacher, temperature=t) for t in (4.0, 1.0))
        assert value(warm, own, teacher, batch(name)).item() != value(cold, own, teacher, batch(name)).item()
