"""Heads: small networks on top of an encoder's features."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

EMBEDDING = 256
"""Width of the projection and the prediction head: FedX, arXiv 2207.09158."""


def classifier(in_features: int, classes: int) -> nn.Module:
    """Logits of features: (B, D) -> (B, classes)."""
    return nn.Linear(in_features, classes)


def projection(in_features: int, classes: int) -> nn.Module:
    """What a contrastive loss sees of features: (B, D) -> (B, 256), two layers without BatchNorm."""
    return nn.Sequential(nn.Linear(in_features, EMBEDDING), nn.ReLU(), nn.Linear(EMBEDDING, EMBEDDING))


def prediction(in_features: int, classes: int) -> nn.Module:
    """What predicts another net's projection from one's own projection: (B, 256) -> (B, 256)."""
    return nn.Sequential(nn.Linear(EMBEDDING, EMBEDDING), nn.ReLU(), nn.Linear(EMBEDDING, EMBEDDING))


def target_prediction(in_features: int, classes: int) -> nn.Module:
    """What predicts a target net's projection: (B, 256) -> (B, 256). The BatchNorm in it is BYOL's, arXiv 2006.07733."""
    hidden = nn.Linear(EMBEDDING, EMBEDDING)
    return nn.Sequential(hidden, nn.BatchNorm1d(EMBEDDING), nn.ReLU(), nn.Linear(EMBEDDING, EMBEDDING))


def projected_classifier(in_features: int, classes: int) -> nn.Module:
    """Logits of a projection instead of features, as in MOON (arXiv 2103.16257): (B, 256) -> (B, classes)."""
    return nn.Linear(EMBEDDING, classes)


HEADS: dict[str, Callable[[int, int], nn.Module]] = {
    "classifier": classifier,
    "projection": projection,
    "prediction": prediction,
    "target_prediction": target_prediction,
    "projected_classifier": projected_classifier,
}
"""Name -> factory(width of the encoder's features, number of classes)."""
