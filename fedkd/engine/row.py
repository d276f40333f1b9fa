"""What a row of metrics is made of: pure reductions over what clients report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from fedkd.knowledge.knowledge import Knowledge


def mean_metrics(uploads: Mapping[int, Knowledge]) -> dict[str, float]:
    """The weighted mean of what clients report, by name; their seconds are their own business."""
    totals: dict[str, tuple[float, float]] = {}
    for upload in uploads.values():
        for key, value in upload.metrics.items():
            before = totals.get(key, (0.0, 0.0))
            totals[key] = (before[0] + upload.weight * value, before[1] + upload.weight)
    return {key: total / weight for key, (total, weight) in totals.items() if key != "seconds"}


def headline(metrics: Mapping[str, float], split: str) -> float | None:
    """The accuracy of the first predictor that answered for this split, if any did."""
    correct = [value for key, value in metrics.items() if key.endswith(f"/{split}/correct")]
    samples = [value for key, value in metrics.items() if key.endswith(f"/{split}/samples")]
    return correct[0] / samples[0] if samples and samples[0] else None


def own_headlines(answers: Iterable[Mapping[str, float]]) -> str:
    """Whose accuracy the clients' own headline is, in words, as ``accuracy_of`` has it.

    >>> own_headlines([{"main/global/correct": 1, "main/global/samples": 2}])
    "clients' own main classifiers, mean"
    >>> own_headlines([{"encoder/global/correct": 1, "encoder/global/samples": 2, "knn/global/correct": 1}])
    "linear probes of clients' own encoders, mean"
    """
    named = {next(iter(answer)).partition("/")[0].replace("_", " "): "knn/global/correct" in answer for answer in answers}
    if any(named.values()):
        return f"linear probes of clients' own {' or '.join(f'{name}s' for name in named)}, mean"
    return f"clients' own {' or '.join(named)} classifiers, mean"


def others(metrics: Mapping[str, float]) -> dict[str, float]:
    """The accuracy on the client's own split of every predictor but the first, as ``client_<name>_accuracy``."""
    names = [key.removesuffix("/own/correct") for key in metrics if key.endswith("/own/correct")][1:]
    counted = {name: (metrics[f"{name}/own/correct"], metrics[f"{name}/own/samples"]) for name in names}
    return {f"client_{name}_accuracy": correct / samples for name, (correct, samples) in counted.items() if samples}


def probed(metrics: Mapping[str, float]) -> dict[str, float]:
    """On the global test set: the accuracy of the linear probe and of the neighbours that a client found for its own net."""
    correct, samples = (metrics.get(f"knn/global/{part}", 0.0) for part in ("correct", "samples"))
    accuracy = headline(metrics, "global")
    return {} if accuracy is None or not samples else {"probe_accuracy": accuracy, "knn_accuracy": correct / samples}


def means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each number over the rows that have it.

    >>> means([{"a": 1.0}, {"a": 2.0, "b": 5.0}])
    {'a': 1.5, 'b': 5.0}
    """
    names = dict.fromkeys(name for row in rows for name in row)
    having = {name: [row[name] for row in rows if name in row] for name in names}
    return {name: sum(values) / len(values) for name, values in having.items()}


def worst_tenth(accuracies: list[float]) -> float:
    """The mean of the lowest tenth of accuracies, of at least one.

    >>> worst_tenth([0.9, 0.2, 0.8])
    0.2
    """
    lowest = sorted(accuracies)[: max(1, math.ceil(len(accuracies) / 10))]
    return sum(lowest) / len(lowest)
