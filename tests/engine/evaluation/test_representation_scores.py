"""Alignment, uniformity and centred kernel alignment: by hand, against plain formulas, and what must not change them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fedkd.base.randomness import generator
from fedkd.engine.evaluation.representations import alignment, linear_cka, mean_similarity, uniformity


def drawn(samples: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(samples, width, generator=generator(seed, "features"))


def rotation(width: int) -> Tensor:
    return torch.linalg.qr(drawn(width, width, seed=9).double()).Q


def test_equal_views_are_aligned_whatever_their_length() -> None:
    features = drawn(6, 4)
    assert alignment(features, features) == 0
    assert alignment(features, 3 * features) == pytest.approx(0, abs=1e-12)
    assert alignment(features, -features) == pytest.approx(4)  # opposite ends of the sphere


def test_alignment_by_hand() -> None:
    """Unit features at right angles are at a squared distance of 2, at 60 degrees of 1."""
    a = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    b = torch.tensor([[0.0, 7.0], [0.5, math.sqrt(0.75)]])
    assert alignment(a, b) == pytest.approx((2 + 1) / 2)


def test_uniformity_by_hand() -> None:
    assert uniformity(torch.ones(5, 3)) == pytest.approx(0)  # one point
    assert uniformity(torch.tensor([[2.0, 0.0], [-1.0, 0.0]])) == pytest.approx(-8)  # opposite ends: -2 * 4
    assert uniformity(torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0]])) == pytest.approx(math.log((1 + 2 * math.exp(-4)) / 3))


def test_uniformity_equals_plain_loops() -> None:
    features = drawn(9, 5).double()
    unit = features / features.norm(dim=1, keepdim=True)
    pairs = [math.exp(-2 * float((unit[i] - unit[j]).square().sum())) for i in range(9) for j in range(i)]
    assert uniformity(features) == pytest.approx(math.log(sum(pairs) / len(pairs)), abs=1e-12)


def gram_cka(x: Tensor, y: Tensor) -> float:
    """The formula of the paper: the biased HSIC of centred Gram matrices, normalised."""
    samples = len(x)
    centring = torch.eye(samples, dtype=torch.float64) - 1 / samples
    k, m = (centring @ each.double() @ each.double().T @ centring for each in (x, y))
    hsic = [float((a * b).sum()) / (samples - 1) ** 2 for a, b in ((k, m), (k, k), (m, m))]
    return hsic[0] / math.sqrt(hsic[1] * hsic[2])


@pytest.mark.parametrize(("samples", "widths"), [(5, (3, 2)), (6, (40, 3)), (30, (4, 4)), (4, (10, 20)), (12, (5, 6))])
def test_cka_equals_the_gram_formula_by_either_side(samples: int, widths: tuple[int, int]) -> None:
    x, y = (drawn(samples, width, seed) for seed, width in enumerate(widths))
    assert linear_cka(x, y) == pytest.approx(gram_cka(x, y), abs=1e-12)
    assert linear_cka(x, y) == pytest.approx(linear_cka(y, x), abs=1e-12)


def test_cka_by_hand() -> None:
    """Centred, two images are +-a and +-b: every encoder that tells them apart is like every other. Of four, none need be."""
    assert linear_cka(torch.tensor([[1.0], [2.0]]), torch.tensor([[5.0, 1.0], [0.0, 0.0]])) == pytest.approx(1)
    x = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
    assert linear_cka(x, torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])) == pytest.approx(0, abs=1e-12)
    # cosine of (1, 1, -1, -1) and (1, 0, 0, -1), squared
    assert linear_cka(x, torch.tensor([[1.0], [0.0], [0.0], [-1.0]])) == pytest.approx(0.5)


def test_cka_knows_no_rotation_shift_or_scale() -> None:
    x, y = drawn(20, 6).double(), drawn(20, 6, seed=1).double()
    assert linear_cka(x, x) == pytest.approx(1, abs=1e-12)
    assert linear_cka(x, 7 * x @ rotation(6) + 3) == pytest.approx(1, abs=1e-12)
    assert linear_cka(0.1 * x @ rotation(6) - 5, y) == pytest.approx(linear_cka(x, y), abs=1e-9)
    stretched = x * torch.tensor([9.0, 1, 1, 1, 1, 1])  # but it knows a linear map that is no rotation
    assert linear_cka(x, stretched) < 0.9


def test_the_mean_over_pairs_equals_a_loop_for_encoders_of_different_widths() -> None:
    features = [drawn(8, width, seed=width) for width in (3, 5, 20, 5)]
    pairs = [gram_cka(features[i], features[j]) for i in range(4) for j in range(i)]
    assert mean_similarity(features) == pytest.approx(sum(pairs) / 6, abs=1e-12)


def test_an_encoder_that_sees_no_difference_is_like_no_other() -> None:
    constant = torch.full((300, 4), 0.1)  # whose mean over the images is 0.1 to rounding only
    assert math.isnan(linear_cka(constant, drawn(300, 4)))
    assert math.isnan(mean_similarity([drawn(300, 4), constant, drawn(300, 4)]))
    assert math.isnan(linear_cka(drawn(1, 4), drawn(1, 4)))


def test_scores_are_exact_for_any_float_type_and_under_autocast() -> None:
    x, y = drawn(12, 6).bfloat16(), drawn(12, 6, seed=1).bfloat16()
    expected = [alignment(x.double(), y.double()), uniformity(x.double()), linear_cka(x.double(), y.double())]
    with torch.autocast("cpu", torch.bfloat16):
        assert [alignment(x, y), uniformity(x), linear_cka(x, y)] == pytest.approx(expected, abs=1e-12)


def test_what_cannot_be_compared_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"alignment: .* not \(3, 2\) and \(4, 2\)"):
        alignment(torch.ones(3, 2), torch.ones(4, 2))
    with pytest.raises(ValueError, match=r"uniformity: .* N >= 2, not \(1, 2\)"):
        uniformity(torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"linear CKA: .* with one N, not \[\(3, 2\), \(4, 2\)\]"):
        linear_cka(torch.ones(3, 2), torch.ones(4, 2))
    with pytest.raises(ValueError, match="linear CKA: two or more"):
        mean_similarity([torch.ones(3, 2)])
