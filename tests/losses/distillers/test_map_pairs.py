"""Which map of a student meets which of a teacher, by hand, and what the pairs are worth."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from fedkd import InputError
from fedkd.base.randomness import seeded
from fedkd.losses.distillers import DISTILLERS, Distiller, Pairing, Shown
from fedkd.losses.distillers.on_maps import Connected, OnMaps, OnNeighbours, partners
from fedkd.nets import Net, Outputs, build_net

B = 8
SHOWN = Shown(torch.zeros(B, 1, 8, 8), torch.zeros(B, dtype=torch.int64), torch.arange(B))


def with_maps(*sizes: int, channels: int = 2, number: float = 0.0) -> Outputs:
    """Maps of these heights and widths, all values equal."""
    maps = tuple(torch.full((B, channels, size, size), number) for size in sizes)
    return Outputs(torch.zeros(B, 3), torch.zeros(B, 4), maps)


def pairing(student: Outputs, teacher: Outputs, *, samples: int = B, batch_size: int = B) -> Pairing:
    ids = torch.arange(samples)
    return Pairing(student, teacher, 1.0, ids, torch.zeros_like(ids), batch_size)


def sum_of_differences(student: Tensor, teacher: Tensor) -> Tensor:
    """Of maps with one value each, whatever their sizes."""
    return (student.mean() - teacher.mean()).abs()


def plain(student: Tensor, teacher: Tensor) -> nn.Module:
    return Connected(sum_of_differences, nn.Identity())


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        ((8, 4), (8, 4), [(0, 0), (1, 1)]),
        ((8, 4), (8, 8, 4, 4), [(0, 1), (1, 3)]),  # of equal sizes the deepest
        ((8,), (16, 4), [(0, 1)]),  # both a factor of two away: the deeper
        ((8,), (16, 3), [(0, 0)]),  # 2 is less than 8 / 3
        ((4, 2, 1), (32,), [(0, 0), (1, 0), (2, 0)]),
        ((14, 7), (28, 28, 14, 7, 4), [(0, 2), (1, 3)]),  # a cnn and a resnet18 on 28x28
    ],
)
def test_partners_are_the_nearest_in_size_and_the_deepest_of_those(
    student: tuple[int, ...], teacher: tuple[int, ...], expected: list[tuple[int, int]]
) -> None:
    assert partners(with_maps(*student).maps, with_maps(*teacher).maps) == expected


def test_maps_of_signals_have_a_length_and_no_width() -> None:
    student, teacher = ([torch.zeros(1, 2, length, 1) for length in lengths] for lengths in ((8, 4), (16, 8, 4, 4)))
    assert partners(student, teacher) == [(0, 1), (1, 3)]


@pytest.mark.parametrize(("student", "teacher", "who"), [((), (4,), "student"), ((4,), (), "teacher"), ((), (), "student")])
def test_a_net_without_maps_is_named(student: tuple[int, ...], teacher: tuple[int, ...], who: str) -> None:
    with pytest.raises(InputError, match=f"the {who} has none: take nets with convolutions, or another loss"):
        partners(with_maps(*student).maps, with_maps(*teacher).maps)


@pytest.mark.parametrize("name", sorted(name for name, recipe in DISTILLERS.items() if "maps" in recipe.needs))
@pytest.mark.parametrize("who", ["student", "teacher"])
def test_no_loss_on_maps_takes_an_mlp(name: str, who: str) -> None:
    nets = {"student": "cnn", "teacher": "cnn"} | {who: "mlp"}
    outputs = {role: build_net(net, shape=(1, 8, 8), classes=3).outputs(torch.randn(B, 1, 8, 8)) for role, net in nets.items()}
    with pytest.raises(InputError, match=f"the {who} has none"):
        DISTILLERS[name].make(pairing(outputs["student"], outputs["teacher"]))


def test_a_sum_over_pairs_in_which_each_may_count_half_of_the_next() -> None:
    """Students hold 0, teachers 1, 10 and 100."""
    student = with_maps(8, 4, 2)
    taught = tuple(held + number for held, number in zip(student.maps, (1, 10, 100), strict=True))
    teacher = Outputs(student.logits, student.features, taught)
    make = partial(OnMaps, pairing(student, teacher), plain)
    assert make()(student, teacher, SHOWN) == 1 + 10 + 100
    assert make(deepest=True)(student, teacher, SHOWN) == 100
    assert make(halving=True)(student, teacher, SHOWN) == 1 / 4 + 10 / 2 + 100


def test_losses_on_signs_see_maps_as_they_are_before_their_relu() -> None:
    student, teacher = with_maps(4, number=0.0), with_maps(4, number=-3.0)
    for before, expected in ((True, 3.0), (False, 0.0)):
        assert OnMaps(pairing(student, teacher), plain, before_relu=before)(student, teacher, SHOWN) == expected


def test_a_loss_on_two_maps_in_a_row_needs_two() -> None:
    with pytest.raises(InputError, match="two feature maps in a row, and the student has one: take a deeper net"):
        OnNeighbours(pairing(with_maps(4), with_maps(4, 2)), lambda own, taught: own[0].mean(), plain)


def test_neighbours_meet_the_partners_of_both() -> None:
    """Maps of 3, 2 and 1 channels; the loss of a pair of pairs reads the sizes off."""

    def sizes(own: tuple[Tensor, Tensor], taught: tuple[Tensor, Tensor]) -> Tensor:
        seen.append([held.shape[-1] for held in (*own, *taught)])
        return torch.ones(())

    seen: list[list[int]] = []
    student, teacher = with_maps(8, 4, 2), with_maps(16, 8, 2)
    distiller = OnNeighbours(pairing(student, teacher), sizes, lambda own, taught: nn.Identity())
    assert distiller(student, teacher, SHOWN) == 2
    assert seen == [[8, 4, 8, 2], [4, 2, 2, 2]]  # of 4, sizes 8 and 2 are as near: the deeper


# SemCKD's perceptrons read rows of a Gram matrix over the batch: they have its size.


def nets() -> tuple[Net, Net]:
    with seeded(0):
        return (
            build_net("cnn", shape=(1, 8, 8), classes=3, options={"channels": [2, 2], "hidden": 4}),
            build_net("cnn", shape=(1, 8, 8), classes=3, options={"channels": [3, 5], "hidden": 4}).eval(),
        )


def semckd(samples: int, batch_size: int) -> tuple[Distiller, Net, Net]:
    student, teacher = nets()
    shown = torch.randn(B, 1, 8, 8)
    made = pairing(student.outputs(shown), teacher.outputs(shown), samples=samples, batch_size=batch_size)
    return DISTILLERS["semckd"].make(made), student, teacher


def of(size: int) -> Shown:
    return Shown(torch.randn(size, 1, 8, 8), torch.zeros(size, dtype=torch.int64), torch.arange(size))


def test_semckd_teaches_nothing_in_a_smaller_last_batch() -> None:
    distiller, student, teacher = semckd(samples=30, batch_size=10)
    for size in (10, 7):
        shown = of(size)
        loss = distiller(student.outputs(shown.inputs), teacher.outputs(shown.inputs), shown)
        student.zero_grad()
        loss.backward()
        assert (loss.item() > 0) == (size == 10)
        assert any(bool(p.grad.any()) for p in student.parameters() if p.grad is not None) == (size == 10)


def test_semckd_takes_all_samples_where_they_are_fewer_than_a_batch() -> None:
    distiller, student, teacher = semckd(samples=9, batch_size=64)
    shown = of(9)
    assert distiller(student.outputs(shown.inputs), teacher.outputs(shown.inputs), shown) > 0


@pytest.mark.parametrize(("samples", "batch_size"), [(100, 4), (5, 64)])
def test_semckd_says_that_batches_are_too_small(samples: int, batch_size: int) -> None:
    with pytest.raises(InputError, match=r"semckd takes batches of at least 8 samples, and these have [45]: raise"):
        semckd(samples, batch_size)
