"""How unequal the classes of a run's data are, and its clients: one line for the report."""

from __future__ import annotations

from collections.abc import Sequence


def imbalance(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    """What is unequal in labelled training samples (clients, classes), in words; empty where there are none.

    >>> imbalance([[6, 2], [6, 0]], ("cat", "dog"))
    'cat has 6.0 times the training samples of dog. 1 of 2 clients lacks classes, client 1 most: 1 of 2.'
    >>> imbalance([[3, 3], [3, 3]], ("cat", "dog"))
    'All classes have equally many training samples. No client lacks a class.'
    """
    totals = [sum(of_class) for of_class in zip(*counts, strict=True)]
    if not any(totals):
        return ""
    most, least = max(totals), min(totals)
    large, small = classes[totals.index(most)], classes[totals.index(least)]
    if not least:
        text = f"{sum(not total for total in totals)} of {len(totals)} classes have no training samples, as {small}."
    elif most == least:
        text = "All classes have equally many training samples."
    else:
        text = f"{large} has {most / least:.1f} times the training samples of {small}."
    lacking = {client: sum(not count for count in row) for client, row in enumerate(counts)}
    if not (some := sum(lack > 0 for lack in lacking.values())):
        return f"{text} No client lacks a class."
    worst = max(lacking, key=lambda client: lacking[client])
    verb = "lacks" if some == 1 else "lack"
    return f"{text} {some} of {len(counts)} clients {verb} classes, client {worst} most: {lacking[worst]} of {len(totals)}."
