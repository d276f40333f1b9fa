"""Means, and mixtures weighted by entropy, confidence and validation error: values by hand and from the formulas."""

import math

import pytest
import torch
from torch import Tensor

from fedkd.targets import (
    Target,
    confidence,
    confidence_weights,
    covariance,
    covariance_weights,
    entropy,
    entropy_weights,
    mean_logits,
    mean_probs,
    weighted,
)

K, B, C = 3, 4, 5


def random_logits(seed: int, *shape: int) -> Tensor:
    return 2 * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def softmax(logits: list[float], temperature: float = 1.0) -> list[float]:
    powers = [math.exp(z / temperature) for z in logits]
    return [power / sum(powers) for power in powers]


def saying(*probabilities: list[float]) -> Tensor:
    """Logits (K, 1, C) of teachers with these probabilities, of one sample."""
    return torch.tensor(probabilities, dtype=torch.float64)[:, None].log()


LOGITS, LABELS = random_logits(0, K, B, C), torch.tensor([0, 4, 2, 2])


def mixture(weights: list[list[float]], temperature: float) -> Tensor:
    """Sample by sample, sum_k w_k softmax(z_k / T); weights[k][b]."""
    rows = []
    for b in range(B):
        softened = [softmax(LOGITS[k, b].tolist(), temperature) for k in range(K)]
        rows.append([sum(weights[k][b] * softened[k][c] for k in range(K)) for c in range(C)])
    return torch.tensor(rows, dtype=torch.float64)


def test_probabilities_and_logits_of_a_target_are_each_others_inverse() -> None:
    logits = LOGITS[0]
    for temperature in (0.5, 1.0, 4.0):
        softened = Target(logits, "logits").probabilities(temperature)
        back = Target(softened, "probabilities").logits(temperature)
        torch.testing.assert_close(back - back.mean(1, keepdim=True), logits - logits.mean(1, keepdim=True))
        assert Target(softened, "probabilities").probabilities(temperature) is softened


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_probability_of_zero_has_a_finite_logit(dtype: torch.dtype) -> None:
    target = Target(torch.tensor([[1.0, 0.0]], dtype=dtype), "probabilities")
    logits = target.logits(4.0)
    assert logits.isfinite().all()
    torch.testing.assert_close((logits / 4.0).softmax(1), target.values, rtol=0, atol=1e-30)


@pytest.mark.recomputed("mean_logits", by="formula")
def test_the_mean_of_logits_is_the_geometric_mean_of_probabilities() -> None:
    roots = LOGITS.softmax(2).prod(0) ** (1 / K)
    torch.testing.assert_close(mean_logits(LOGITS).probabilities(), roots / roots.sum(1, keepdim=True))


@pytest.mark.recomputed("mean_probs", by="formula")
def test_the_mean_of_probabilities_at_a_temperature() -> None:
    third = [[1 / K] * B] * K
    torch.testing.assert_close(mean_probs(LOGITS, temperature=2.0).values, mixture(third, 2.0))


def test_the_divergence_to_the_mean_has_the_gradient_of_the_mean_of_divergences() -> None:
    student = random_logits(1, B, C).requires_grad_()

    def divergence(target: Tensor) -> Tensor:
        return (target * (target.log() - student.log_softmax(1))).sum()

    (of_mean,) = torch.autograd.grad(divergence(mean_probs(LOGITS).values), student)
    (mean_of,) = torch.autograd.grad(torch.stack([divergence(z.softmax(1)) for z in LOGITS]).mean(), student)
    torch.testing.assert_close(of_mean, mean_of)


@pytest.mark.recomputed("weighted", by="formula")
def test_only_the_ratios_of_weights_count_and_they_may_differ_between_samples() -> None:
    per_teacher = torch.tensor([1.0, 0.0, 3.0])
    expected = mixture([[0.25] * B, [0.0] * B, [0.75] * B], 2.0)
    smallest, large = 2.0**-149, 2.0**126  # of float32, where their sum is too large for it
    for weights in (per_teacher, smallest * per_teacher, large * per_teacher, per_teacher[:, None].expand(K, B)):
        torch.testing.assert_close(weighted(LOGITS, weights, temperature=2.0).values, expected)
    own = torch.eye(K)[:, [0, 1, 2, 0]]  # one teacher a sample
    torch.testing.assert_close(weighted(LOGITS, own).values, LOGITS.softmax(2)[[0, 1, 2, 0], range(B)])


def test_weights_of_zero_are_equal_weights() -> None:
    torch.testing.assert_close(weighted(LOGITS, torch.zeros(K)).values, mean_probs(LOGITS).values)
    some = torch.tensor([[1.0, 0.0, 1.0, 1.0], [0.0] * 4, [0.0] * 4])  # nobody for the second sample
    torch.testing.assert_close(weighted(LOGITS, some).values[1], mean_probs(LOGITS).values[1])


@pytest.mark.parametrize("weights", [[-1.0, 1.0, 1.0], [math.nan, 1.0, 1.0], [math.inf, 1.0, 1.0]])
def test_weights_that_are_none_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="finite and not negative"):
        weighted(LOGITS, torch.tensor(weights))


def test_weights_of_another_shape_and_temperatures_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match=r"weighted: weights are \(3,\) or \(3, 4\), not \(4,\)"):
        weighted(LOGITS, torch.ones(B))
    with pytest.raises(ValueError, match=r"mean_probs: temperature 0.0 is not positive"):
        mean_probs(LOGITS, temperature=0.0)
    with pytest.raises(ValueError, match=r"mean_logits: logits are \(K, B, C\)"):
        mean_logits(LOGITS[0])


@pytest.mark.recomputed("entropy", "entropy_weights", by="formula")
def test_entropy_weights_are_the_formula() -> None:
    expected = torch.zeros(K, B, dtype=torch.float64)
    for b in range(B):
        entropies = [-sum(p * math.log(p) for p in softmax(LOGITS[k, b].tolist())) for k in range(K)]
        for k in range(K):
            expected[k, b] = 1 - entropies[k] / sum(entropies)
    torch.testing.assert_close(entropy_weights(LOGITS, normalise=False), expected)
    torch.testing.assert_close(entropy_weights(LOGITS), expected / (K - 1))
    torch.testing.assert_close(entropy(LOGITS, temperature=3.0).values, mixture((expected / (K - 1)).tolist(), 3.0))


def test_teachers_without_entropy_share_equally_and_one_teacher_weighs_one() -> None:
    certain = torch.tensor([[[1e4, 0.0]], [[0.0, 1e4]]])
    assert entropy_weights(certain).tolist() == [[0.5], [0.5]]
    assert entropy_weights(LOGITS[:1]).tolist() == [[1.0] * B]
    assert entropy_weights(LOGITS[:1], normalise=False).tolist() == [[0.0] * B]  # as in the official code


@pytest.mark.recomputed("confidence", "confidence_weights", by="formula")
def test_confidence_weights_are_the_formula() -> None:
    expected = torch.zeros(K, B, dtype=torch.float64)
    for b, label in enumerate(LABELS.tolist()):
        inverse = [1 / softmax(LOGITS[k, b].tolist())[label] for k in range(K)]  # exp of the cross-entropy
        for k in range(K):
            expected[k, b] = (1 - inverse[k] / sum(inverse)) / (K - 1)
    torch.testing.assert_close(confidence_weights(LOGITS, LABELS), expected)
    torch.testing.assert_close(confidence(LOGITS, LABELS, temperature=3.0).values, mixture(expected.tolist(), 3.0))


def test_a_teacher_that_is_wrong_loses_all_its_weight_and_no_other_gains_more_than_a_share() -> None:
    wrong = torch.tensor([[[0.0, 1e4]], [[0.0, 0.0]], [[1e4, 0.0]]])
    assert confidence_weights(wrong, torch.tensor([0])).tolist() == [[0.0], [0.5], [0.5]]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1]), r"4 samples need integer labels \(4,\), not \(2,\)"),
        (torch.zeros(B), "integer labels"),
        (torch.tensor([0, 1, 2, -1]), "labels are from 0 to 4, not -1 to 2"),
        (torch.tensor([0, 1, 2, 5]), "labels are from 0 to 4, not 0 to 5"),
    ],
)
def test_labels_that_are_none_are_refused(labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        confidence_weights(LOGITS, labels)


@pytest.mark.recomputed("covariance", "covariance_weights", by="formula")
def test_covariance_weights_make_the_expected_squared_error_least() -> None:
    held_out, truth = random_logits(2, K, 40, C), torch.randint(C, (40,), generator=torch.Generator().manual_seed(3))
    held_out[:, range(40), truth] += 2  # teachers that are right more often than not
    weights = covariance_weights(held_out, truth, ridge=1e-12)
    errors = held_out.softmax(2) - torch.nn.functional.one_hot(truth, C)  # (K, V, C)

    def squared_error(shares: Tensor) -> float:
        return float(torch.einsum("k,kvc->vc", shares, errors).square().sum())

    assert (weights > 0).all()
    assert weights.sum().item() == pytest.approx(1)
    for i in range(K):
        for j in range(K):
            moved = weights + 1e-3 * (torch.eye(K, dtype=torch.float64)[i] - torch.eye(K, dtype=torch.float64)[j])
            assert squared_error(moved) >= squared_error(weights)
    expected = mixture([[w] * B for w in weights.tolist()], 2.0)
    torch.testing.assert_close(covariance(LOGITS, held_out, truth, ridge=1e-12, temperature=2.0).values, expected)


def test_a_share_below_zero_is_cut_off() -> None:
    held_out = saying([0.5, 0.5], [0.9, 0.1])  # the second is right and the first errs the same way: it would get -1/4
    assert covariance_weights(held_out, torch.tensor([0])).tolist() == pytest.approx([0, 1])


def test_teachers_that_never_err_share_equally() -> None:
    certain = torch.tensor([[[1e4, 0.0]], [[2e4, 0.0]]])
    assert covariance_weights(certain, torch.tensor([0])).tolist() == [0.5, 0.5]


def test_validation_logits_of_other_teachers_or_of_no_sample_are_refused() -> None:
    with pytest.raises(ValueError, match="3 teachers, and validation logits of 2"):
        covariance(LOGITS, LOGITS[:2], LABELS)
    with pytest.raises(ValueError, match="no held-out samples"):
        covariance(LOGITS, LOGITS[:, :0], LABELS[:0])
