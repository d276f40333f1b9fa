from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedkd.base.errors import InputError
from fedkd.data import KINDS, PRESETS, Moments, Samples, augment
from fedkd.data.kinds import NO_MOMENTS
from fedkd.data.views import reflect

OF_IMAGES = [name for name, (kind, _) in PRESETS.items() if kind == "image"]


def pictures(count: int, channels: int, size: int) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, size, size), generator=rng, dtype=torch.uint8)


def view(images: Tensor, preset: str, seed: int) -> Tensor:
    """A view whose pixels lie in 0..1: mean 0, standard deviation 1."""
    return augment(images, preset, seed=seed, samples=samples_of(images), moments=NO_MOMENTS)


def samples_of(images: Tensor) -> Samples:
    count = len(images)
    return Samples(images, torch.zeros(count, dtype=torch.int64), torch.arange(count), KINDS["image"], NO_MOMENTS, 2)


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


@pytest.mark.gpu
@pytest.mark.parametrize("preset", OF_IMAGES)
def test_views_on_a_gpu_draw_as_on_the_cpu(preset: str) -> None:
    images = pictures(16, 3, 32)
    torch.testing.assert_close(view(images.cuda(), preset, seed=1).cpu(), view(images, preset, seed=1), atol=1e-4, rtol=0)
