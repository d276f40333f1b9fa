"""The prototype term of ProtoNCE and the concentrations that divide it, against values by hand and the definition in loops."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from fedkd.losses import proto_nce_loss, prototype_concentrations

AXES = torch.eye(2, dtype=torch.float64)


def rows(seed: int, count: int, width: int = 4) -> Tensor:
    return torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def unit(count: int, width: int = 4) -> Tensor:
    return torch.nn.functional.normalize(rows(0, count, width), dim=1)


def cosine(x: Tensor, y: Tensor) -> float:
    return float(x @ y / (x.norm() * y.norm()))


@pytest.mark.recomputed("proto_nce_loss", by="hand")
def test_a_sample_on_its_prototype_by_hand() -> None:
    phi = torch.tensor([0.5, 2.0])
    on_first = proto_nce_loss(AXES[:1], AXES, torch.tensor([0]), phi)  # 1 / 0.5 against 0 / 2
    on_second = proto_nce_loss(AXES[1:], AXES, torch.tensor([1]), phi)  # 1 / 2 against 0 / 0.5
    both = proto_nce_loss(AXES, AXES, torch.tensor([0, 1]), phi)
    assert on_first.item() == pytest.approx(math.log(1 + math.exp(-2)))
    assert on_second.item() == pytest.approx(math.log(1 + math.exp(-0.5)))
    assert both.item() == pytest.approx((on_first.item() + on_second.item()) / 2)


@pytest.mark.recomputed("proto_nce_loss", by="formula")
def test_equals_the_definition() -> None:
    embeddings, prototypes, phi = rows(0, 6), rows(1, 3), [0.1, 0.3, 0.2]
    labels = [0, 2, 1, 1, 0, 2]
    expected = 0.0
    for embedding, label in zip(embeddings, labels, strict=True):
        scores = [math.exp(cosine(embedding, prototype) / each) for prototype, each in zip(prototypes, phi, strict=True)]
        expected -= math.log(scores[label] / sum(scores)) / len(labels)
    value = proto_nce_loss(embeddings, prototypes, torch.tensor(labels), torch.tensor(phi).double())
    assert value.item() == pytest.approx(expected)


def test_gradient_is_right_and_reaches_the_embeddings_only() -> None:
    labels = torch.tensor([0, 2, 1])
    embeddings, prototypes = rows(0, 3).requires_grad_(), rows(1, 3).requires_grad_()
    phi = torch.tensor([0.5, 1.0, 0.7], dtype=torch.float64, requires_grad=True)
    proto_nce_loss(embeddings, prototypes, labels, phi).backward()  # type: ignore[no-untyped-call]
    assert embeddings.grad is not None
    assert prototypes.grad is None
    assert phi.grad is None
    assert gradcheck(lambda moved: proto_nce_loss(moved, prototypes.detach(), labels, phi.detach()), (embeddings,))


def test_names_what_does_not_fit() -> None:
    labels, phi = torch.tensor([0, 1]), torch.ones(3)
    with pytest.raises(ValueError, match="prototypes is \\(3, 5\\); expected \\(C, 4\\)"):
        proto_nce_loss(rows(0, 2), rows(1, 3, 5), labels, phi)
    with pytest.raises(ValueError, match="concentrations is \\(2,\\); expected \\(3\\)"):
        proto_nce_loss(rows(0, 2), rows(1, 3), labels, torch.ones(2))
    with pytest.raises(ValueError, match="labels is \\(2,\\); expected \\(5\\)"):
        prototype_concentrations(unit(5), rows(1, 3), labels, temperature=0.1)


def by_definition(embeddings: Tensor, centroids: Tensor, labels: list[int], temperature: float, alpha: float) -> list[float]:
    """Equation 12 and what the authors' code does to it, in NumPy."""
    phi: list[float] = []
    for number, centroid in enumerate(centroids):
        own = [float((row - centroid).norm()) for row, label in zip(embeddings, labels, strict=True) if label == number]
        phi.append(sum(own) / (len(own) * math.log(len(own) + alpha)) if len(own) > 1 else math.nan)
    largest = max(value for value in phi if not math.isnan(value))
    filled = np.array([largest if math.isnan(value) else value for value in phi])
    clamped = filled.clip(np.percentile(filled, 10), np.percentile(filled, 90))
    return (temperature * clamped / clamped.mean()).tolist()


@pytest.mark.recomputed("prototype_concentrations", by="formula")
@pytest.mark.parametrize("alpha", [0.0, 10.0])
def test_concentrations_equal_the_definition(alpha: float) -> None:
    embeddings, centroids = unit(14), rows(1, 6) / 4
    labels = [0, 0, 0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 5]  # 4 is empty, 5 has one sample
    found = prototype_concentrations(embeddings, centroids, torch.tensor(labels), temperature=0.2, alpha=alpha)
    assert found.tolist() == pytest.approx(by_definition(embeddings, centroids, labels, 0.2, alpha))
    assert found.mean().item() == pytest.approx(0.2)


@pytest.mark.recomputed("prototype_concentrations", by="hand")
def test_concentrations_of_two_clusters_by_hand() -> None:
    """Mean distances 1 and 0.6 and sizes 2 and 2: the ratio is 1 to 0.6 before percentiles 10 and 90 draw it in."""
    embeddings = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.6, 0.8], [-0.6, 0.8]])
    centroids = torch.tensor([[0.0, 0.0], [0.0, 0.8]])
    wide, narrow = prototype_concentrations(embeddings, centroids, torch.tensor([0, 0, 1, 1]), temperature=1.0).tolist()
    assert wide + narrow == pytest.approx(2)
    assert wide / narrow == pytest.approx((1 - 0.04) / (0.6 + 0.04))


def test_a_cluster_of_one_sample_or_of_equal_ones_counts_as_widely_spread() -> None:
    centroids = torch.stack([torch.zeros(2), torch.tensor([0.0, 0.8]), *AXES.float()])
    spread = [[1.0, 0.0], [-1.0, 0.0], [0.6, 0.8], [-0.6, 0.8]]
    rows, labels = torch.tensor([*spread, [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 0, 1, 1, 2, 3, 3])
    wide, narrow, one, equal = prototype_concentrations(rows, centroids, labels, temperature=0.1).tolist()
    assert one == equal == wide > narrow


def test_clusters_without_any_spread_all_get_the_temperature() -> None:
    found = prototype_concentrations(AXES.float(), AXES.float(), torch.tensor([0, 1]), temperature=0.3)
    assert found.tolist() == pytest.approx([0.3, 0.3])


def test_alpha_makes_small_clusters_less_widely_spread_than_large_ones_of_the_same_distances() -> None:
    """1 / log(2 + alpha) against 1 / log(4 + alpha): the smaller alpha, the more the sizes weigh."""
    embeddings, centroids = AXES[[0, 0, 0, 0, 0, 0]], torch.zeros(2, 2).double()
    labels = torch.tensor([0, 0, 1, 1, 1, 1])
    ratios = []
    for alpha in (0.0, 10.0):
        small, large = prototype_concentrations(embeddings, centroids, labels, temperature=0.1, alpha=alpha).tolist()
        ratios.append(small / large)
    assert ratios[0] > ratios[1] > 1
