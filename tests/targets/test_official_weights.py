"""Weights and targets that the authors' code gives for the same numbers, computed with it once."""

import math

import pytest
import torch
from torch import Tensor

from fedkd.targets import attention, confidence_weights, entropy_weights, min_norm_weights


def wave(pitch: float, *shape: int) -> Tensor:
    return (torch.arange(1, math.prod(shape) + 1, dtype=torch.float64) * pitch).sin().view(shape)


PITCHES = (1.1, 1.7, 2.3)  # of three teachers
LOGITS = torch.stack([4 * wave(pitch, 4, 5) for pitch in PITCHES])


@pytest.mark.recomputed("entropy_weights", by="code")
def test_entropy_weights_are_those_of_ca_mkds_baseline() -> None:
    expected = [0.70570623691, 0.639339344273, 0.676205820698, 0.680176449198, 0.643535001688, 0.761820005669]
    expected += [0.819316072535, 0.605644377865, 0.650758761402, 0.598840650058, 0.504478106767, 0.714179172938]
    assert entropy_weights(LOGITS, normalise=False).flatten().tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.recomputed("confidence_weights", by="code")
def test_confidence_weights_are_those_of_ca_mkd() -> None:
    expected = [0.325719894443, 0.011071808713, 0.188783137893, 0.067989790662, 0.338771259768, 0.491231481465]
    expected += [0.444677672239, 0.448173304496, 0.33550884579, 0.497696709822, 0.366539189867, 0.483836904842]
    weights = confidence_weights(LOGITS, torch.tensor([0, 3, 1, 4]))
    assert weights.flatten().tolist() == pytest.approx(expected, rel=1e-8)


@pytest.mark.recomputed("min_norm_weights", by="code")
@pytest.mark.parametrize(("cap", "expected"), [(0.6, [0.6, 0.226417, 0.173583]), (1.0, [0.836202, 0.111551, 0.052247])])
def test_min_norm_weights_are_those_of_ae_kds_support_vector_machine(cap: float, expected: list[float]) -> None:
    gradients = torch.stack([scale * wave(pitch, 6) for scale, pitch in zip((0.3, 1.0, 1.0), PITCHES, strict=True)])
    assert min_norm_weights(gradients, cap=cap).tolist() == pytest.approx(expected, abs=2e-6)


@pytest.mark.recomputed("attention", by="code")
def test_attention_is_that_of_okddip() -> None:
    targets = attention(LOGITS, wave(0.8, 3, 4, 2), wave(1.9, 3, 4, 2)).values
    assert float((targets * wave(2.9, 3, 4, 5)).sum()) == pytest.approx(-4.572858806492, rel=1e-9)
