"""Clients' answers to an evaluation, counts of right answers by predictor and split: which are valid, and their accuracies."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from fedkd.results.row_keys import OWN_TEST

#: ``<predictor>/<split>/correct`` and ``.../samples``.
COUNT = re.compile(r"(?P<name>[A-Za-z0-9_][\w .:+-]{0,99})/(?P<split>own|global)/(?P<what>correct|samples)", re.ASCII)
#: No strategy scores more predictors at one client: a generation, exit or branch each.
MOST_PREDICTORS = 200
#: Right answers may be fractions, as the mean of K peers is: so much may they miss by.
TOLERANCE = 1e-6


def check_answer(metrics: Mapping[str, float], samples: Mapping[str, int | None]) -> None:
    """Check the counts of one client's answer.

    Args:
        metrics: as the client sent them.
        samples: the splits that were asked for -> how many labelled samples the client has there; None where nobody else
            knows.

    Raises:
        ValueError: the first count that is unknown, missing, no number, or contradicts another one. One line.
    """
    counts: dict[tuple[str, str], dict[str, float]] = {}
    for key, value in metrics.items():
        parts = COUNT.fullmatch(key)
        if not parts or parts["split"] not in samples:
            raise ValueError(f"{key[:100]!r} was not asked for")
        if type(value) not in (int, float) or not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{key!r} is {str(value)[:30]}, not a count")
        counts.setdefault((parts["name"], parts["split"]), {})[parts["what"]] = value
    if len(counts) > MOST_PREDICTORS * len(samples):
        raise ValueError(f"it scores over {MOST_PREDICTORS} predictors")
    sizes: dict[str, float | None] = dict(samples)
    for (name, split), count in counts.items():
        if len(count) < 2:
            raise ValueError(f"'{name}/{split}' has no {'samples' if 'correct' in count else 'correct'}")
        correct, size = count["correct"], count["samples"]
        known = sizes[split]
        if known is None:
            known = sizes[split] = size  # what it says first, it must say of every predictor
        if size != known or size != int(size):
            raise ValueError(f"'{name}/{split}' counts {size:g} samples, not {known:g}")
        if correct > size * (1 + TOLERANCE):
            raise ValueError(f"'{name}/{split}' has {correct:g} right answers to {size:g} samples")


def headline_accuracy(metrics: Mapping[str, float], split: str) -> float | None:
    """The accuracy of the first predictor that answered for this split, if any did."""
    correct = [value for key, value in metrics.items() if key.endswith(f"/{split}/correct")]
    samples = [value for key, value in metrics.items() if key.endswith(f"/{split}/samples")]
    return correct[0] / samples[0] if samples and samples[0] else None


def describe_headlines(answers: Iterable[Mapping[str, float]]) -> str:
    """Whose accuracy the clients' own headline is, in words, as ``accuracy_of`` has it.

    >>> describe_headlines([{"main/global/correct": 1, "main/global/samples": 2}])
    "clients' own main classifiers, mean"
    >>> describe_headlines([{"encoder/global/correct": 1, "encoder/global/samples": 2, "knn/global/correct": 1}])
    "linear probes of clients' own encoders, mean"
    """
    named = {next(iter(answer)).partition("/")[0].replace("_", " "): "knn/global/correct" in answer for answer in answers}
    if any(named.values()):
        return f"linear probes of clients' own {' or '.join(f'{name}s' for name in named)}, mean"
    return f"clients' own {' or '.join(named)} classifiers, mean"


def describe_own(answers: Iterable[Mapping[str, float]]) -> str:
    """Whose accuracy the headline is where there is no global test set, as ``accuracy_of`` has it.

    >>> describe_own([{"main/own/correct": 1, "main/own/samples": 2}])
    'main classifiers, mean over clients, each on its own test samples'
    """
    named = {next(iter(answer)).partition("/")[0].replace("_", " "): "probe/own/correct" in answer for answer in answers}
    kind = "linear probes of " if any(named.values()) else ""
    what = " or ".join(f"{name}s" if kind else f"{name} classifiers" for name in named)
    return f"{kind}{what}, mean over clients, {OWN_TEST}"


def other_accuracies(metrics: Mapping[str, float]) -> dict[str, float]:
    """The accuracy on the client's own split of every predictor but the first, as ``client_<name>_accuracy``."""
    names = [key.removesuffix("/own/correct") for key in metrics if key.endswith("/own/correct")][1:]
    counted = {name: (metrics[f"{name}/own/correct"], metrics[f"{name}/own/samples"]) for name in names}
    return {f"client_{name}_accuracy": correct / samples for name, (correct, samples) in counted.items() if samples}


def probe_accuracies(metrics: Mapping[str, float]) -> dict[str, float]:
    """On the global test set: the accuracy of the linear probe and of the neighbours that a client found for its own net."""
    correct, samples = (metrics.get(f"knn/global/{part}", 0.0) for part in ("correct", "samples"))
    accuracy = headline_accuracy(metrics, "global")
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
