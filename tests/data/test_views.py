from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedkd.base.errors import InputError
from fedkd.base.inputs import Inputs, count, each
from fedkd.data import KINDS, PRESETS, MappedArray, Moments, Samples, augment
from fedkd.data.kinds import NO_MOMENTS
from fedkd.data.views import reflect

OF_IMAGES = [name for name, (kind, _) in PRESETS.items() if kind == "image"]


def pictures(count: int, channels: int, size: int) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, size, size), generator=rng, dtype=torch.uint8)


def view(images: Tensor, preset: str, seed: int) -> Tensor:
    """A view whose pixels lie in 0..1: mean 0, standard deviation 1."""
    return augment(images, preset, seed=seed, samples=samples_of(images), moments=NO_MOMENTS)


def samples_of(inputs: Inputs, kind: str = "image") -> Samples:
    rows = torch.arange(count(inputs))
    return Samples(inputs, torch.zeros_like(rows), rows, KINDS[kind], NO_MOMENTS, 2)


@pytest.mark.parametrize("preset", OF_IMAGES)
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 8), (1, 28), (3, 32), (3, 33), (1, 1)])
def test_views_of_any_size(preset: str, channels: int, size: int) -> None:
    images = pictures(6, channels, size)
    before = images.clone()
    views = view(images, preset, seed=1)
    assert views.shape == images.shape
    assert views.dtype == torch.float32
    assert 0 <= views.min() <= views.max() <= 1
    assert torch.equal(images, before), "the originals are left alone"
    assert torch.equal(view(images, preset, seed=1), views), "same seed, same bytes"


@pytest.mark.parametrize("preset", OF_IMAGES)
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32)])
def test_two_views_of_an_image_differ_and_each_image_has_its_own_draw(preset: str, channels: int, size: int) -> None:
    images = pictures(1, channels, size).expand(64, -1, -1, -1)  # the same image 64 times
    first, second = view(images, preset, seed=1), view(images, preset, seed=2)
    assert not torch.equal(first, second)
    assert len({image.numpy().tobytes() for image in first}) > 10, "an image's draw is its own, not the batch's"


@pytest.mark.parametrize("preset", OF_IMAGES)
def test_views_leave_the_global_generator_alone(preset: str) -> None:
    state = torch.random.get_rng_state()
    view(pictures(4, 3, 8), preset, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_views_are_normalised() -> None:
    images = torch.full((2, 1, 8, 8), 51, dtype=torch.uint8)  # 0.2 everywhere, so every crop of it too
    views = augment(
        images, "fedx", seed=0, samples=samples_of(images), moments=Moments(torch.tensor([0.1]), torch.tensor([0.5]))
    )
    torch.testing.assert_close(views, torch.full((2, 1, 8, 8), 0.2))


def test_reflection_does_not_repeat_the_border() -> None:
    assert reflect(torch.arange(-2, 6), 4).tolist() == [2, 1, 0, 1, 2, 3, 2, 1]


def test_fedx_views_are_crops_of_the_padded_image_or_of_its_mirror() -> None:
    image = pictures(1, 3, 16)
    padded = torch.nn.functional.pad(image.float(), (2, 2, 2, 2), mode="reflect") / 255  # 16 / 8 = 2
    crops = [padded[0, :, y : y + 16, x : x + 16] for y in range(5) for x in range(5)]
    allowed = {crop.numpy().tobytes() for crop in [*crops, *(crop.flip(2).contiguous() for crop in crops)]}
    seen = {image.numpy().tobytes() for image in view(image.expand(1000, -1, -1, -1), "fedx", seed=0)}
    assert seen == allowed, "all 25 places, plain and mirrored, and nothing else"


def test_simclr_greys_some_images_and_keeps_the_colours_of_others() -> None:
    views = view(pictures(200, 3, 8), "simclr", seed=0)
    grey = (views - views.mean(1, keepdim=True)).abs().amax((1, 2, 3)) < 1e-5
    assert 20 < int(grey.sum()) < 60, "about a fifth"


def test_an_unknown_preset_is_an_error() -> None:
    with pytest.raises(InputError, match=r"unknown data\.views 'simlcr': did you mean 'simclr'"):
        view(pictures(1, 1, 8), "simlcr", seed=0)


def of_kind(name: str, inputs: Inputs, *, seed: int = 0, moments: Moments = NO_MOMENTS, preset: str = "") -> Any:
    return augment(inputs, preset, seed=seed, samples=samples_of(inputs, name), moments=moments)


def test_corrupted_vectors_hold_six_tenths_of_other_rows_features_each_of_its_own_column() -> None:
    rows = torch.arange(500.0)[:, None] + torch.arange(5) * 1000  # row i, feature j: 1000 j + i
    views = of_kind("vector", rows)
    assert torch.equal(views // 1000, torch.arange(5.0).expand(500, 5)), "a feature is replaced by the same one of another row"
    changed = views != rows
    assert changed.sum(1).max() == 3 and changed.float().mean() == pytest.approx(0.6, abs=0.01)
    assert changed.float().mean(0).tolist() == pytest.approx([0.6] * 5, abs=0.1), "which ones is drawn for each row"
    moments = Moments(torch.full((5,), 10.0), torch.full((5,), 2.0))
    torch.testing.assert_close(of_kind("vector", rows, moments=moments), (views - 10) / 2)


def test_corrupt_takes_rows_of_the_split_only() -> None:
    table = torch.arange(100.0)[:, None].repeat(1, 4)
    split = replace(samples_of(table, "vector"), indices=torch.tensor([7, 8, 9]))
    views = augment(split.take(torch.arange(3))[0], "corrupt", seed=0, samples=split, moments=NO_MOMENTS)
    assert set(views.flatten().tolist()) <= {7.0, 8.0, 9.0}  # type: ignore[union-attr]


def test_donors_may_lie_on_disk(tmp_path: Path) -> None:
    np.save(tmp_path / "table.npy", np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32))
    mapped = MappedArray.of(tmp_path / "table.npy")
    rows = mapped[torch.arange(5)]
    views = augment(rows, "corrupt", seed=0, samples=samples_of(mapped, "vector"), moments=NO_MOMENTS)
    here = augment(rows, "corrupt", seed=0, samples=samples_of(mapped[torch.arange(50)], "vector"), moments=NO_MOMENTS)
    assert torch.equal(views, here)  # type: ignore[arg-type]


def test_signals_are_scaled_by_feature_and_jittered_at_each_time() -> None:
    signals = torch.full((400, 50, 2), 14.0)
    views = of_kind(
        "sequence", signals, moments=Moments(torch.tensor([4.0, 4.0]), torch.tensor([2.0, 2.0]))
    )  # 5 as the net sees it
    factors = views.mean(1) / 5  # (400, 2)
    assert factors.mean().item() == pytest.approx(1, abs=0.01) and factors.std().item() == pytest.approx(0.1, rel=0.1)
    assert (factors[:, 0] - factors[:, 1]).abs().mean() > 0.05, "features are scaled apart"
    assert views.std(1).mean().item() == pytest.approx(0.05, rel=0.02)


def test_tokens_are_blanked_out_but_never_the_first() -> None:
    ids = torch.arange(1, 21).repeat(500, 1)
    ids[:, 15:] = 0  # texts of fifteen tokens, and padding
    views = of_kind("tokens", ids)
    gone = views != ids
    assert torch.equal(views[gone], torch.zeros_like(views[gone]))
    assert gone[:, :1].sum() == 0 and gone[:, 15:].sum() == 0
    assert gone[:, 1:15].float().mean().item() == pytest.approx(0.15, abs=0.01)


def test_the_mask_of_a_text_follows_its_tokens() -> None:
    ids = torch.tensor([[0, 0, 5, 6, 7, 8, 9, 10]]).repeat(50, 1)  # padding may stand first
    text = {"input_ids": ids, "attention_mask": (ids != 0).long(), "token_type_ids": torch.ones_like(ids)}
    views = of_kind("tokens", text)
    assert torch.equal(views["attention_mask"], (views["input_ids"] != 0).long())
    assert (views["input_ids"] == 0).sum() > 100 + 20 and (views["input_ids"][:, 2] == 5).all()
    assert views["token_type_ids"] is text["token_type_ids"]


DRAWN: dict[str, Inputs] = {
    "vector": torch.randn(8, 6),
    "sequence": torch.randn(8, 5, 2),
    "tokens": {"input_ids": torch.arange(1, 41).repeat(8, 1), "attention_mask": torch.ones(8, 40, dtype=torch.int64)},
}


@pytest.mark.parametrize("kind", DRAWN)
def test_views_of_every_kind_come_by_seed_and_leave_the_originals_alone(kind: str) -> None:
    def flat(inputs: Inputs) -> Tensor:
        return inputs["input_ids"] if isinstance(inputs, Mapping) else inputs

    before = flat(DRAWN[kind]).clone()
    first, again, other = (of_kind(kind, DRAWN[kind], seed=seed) for seed in (1, 1, 2))
    assert torch.equal(flat(first), flat(again)) and not torch.equal(flat(first), flat(other))
    assert torch.equal(flat(DRAWN[kind]), before)
    assert len({row.numpy().tobytes() for row in flat(first) - before}) == 8, "each sample has a draw of its own"


def test_a_preset_for_another_kind_is_refused_with_those_that_fit() -> None:
    with pytest.raises(
        InputError, match="'simclr' is for samples of kind 'image', and these are of kind 'vector': take corrupt"
    ):
        of_kind("vector", torch.zeros(2, 3), preset="simclr")


def shifted(inputs: Tensor, rng: torch.Generator) -> Tensor:
    return inputs + torch.rand(len(inputs), 1, generator=rng) + torch.rand(())


def shortened(inputs: Tensor, rng: torch.Generator) -> Tensor:
    return inputs[:, 1:]


SHIFT = None


def test_a_function_of_ones_own_sees_normalised_samples() -> None:
    moments = Moments(torch.full((3,), 100.0), torch.ones(3))
    first, again, other = (
        of_kind("vector", torch.full((4, 3), 100.0), preset=f"{__name__}:shifted", moments=moments, seed=seed)
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other) and 0 <= first.min() <= first.max() <= 2
    with pytest.raises(InputError, match=r"gives 4 of \(2,\) for 4 of \(3,\): it must leave the shape as it was"):
        of_kind("vector", torch.zeros(4, 3), preset=f"{__name__}:shortened")
    with pytest.raises(InputError, match=r"is a NoneType: give a function \(inputs, rng\) -> inputs"):
        of_kind("vector", torch.zeros(4, 3), preset=f"{__name__}:SHIFT")


@pytest.mark.parametrize("preset", OF_IMAGES)
@pytest.mark.parametrize("dtype", [torch.uint16, torch.float32])
def test_views_of_images_of_other_depths(preset: str, dtype: torch.dtype) -> None:
    images = torch.full((4, 2, 8, 8), 13107 if dtype == torch.uint16 else 0.2).to(dtype)
    views = view(images, preset, seed=0)
    assert views.dtype == torch.float32 and (preset == "simclr" or torch.allclose(views, torch.tensor(0.2)))


@pytest.mark.gpu
@pytest.mark.parametrize("preset", OF_IMAGES)
def test_views_on_a_gpu_draw_as_on_the_cpu(preset: str) -> None:
    images = pictures(16, 3, 32)
    torch.testing.assert_close(view(images.cuda(), preset, seed=1).cpu(), view(images, preset, seed=1), atol=1e-4, rtol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", DRAWN)
def test_views_of_every_kind_on_a_gpu(kind: str) -> None:
    def numbers(inputs: Inputs) -> Tensor:
        return (inputs["input_ids"] if isinstance(inputs, Mapping) else inputs).cpu()

    there = augment(each(Tensor.cuda, DRAWN[kind]), "", seed=1, samples=samples_of(DRAWN[kind], kind), moments=NO_MOMENTS)
    torch.testing.assert_close(numbers(there), numbers(of_kind(kind, DRAWN[kind], seed=1)))
