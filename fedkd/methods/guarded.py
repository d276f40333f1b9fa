"""A reduction of clients' tables under ExpGuard: the server keeps in mind, over the rounds, who stood out."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Literal

import torch
from torch import Tensor

from fedkd.aggregate import discounted, mean, outlier_scores
from fedkd.experiment.algorithm.server import Server

#: The reductions that a strategy's field may name, of ``fedkd.aggregate.REDUCTIONS``.
Reduction = Literal["mean", "median", "trimmed_mean", "geometric_median", "spectral_filter"]
#: In the server's memory: the logarithm of what each client counts for, (clients,) float64.
LOG_WEIGHTS = "expguard/log_weights"


def guarded(
    server: Server, values: Tensor, clients: Collection[int], base: Callable[[Tensor], Tensor], *, expguard: float
) -> Tensor:
    """What the clients' tables come to, (P, C), of the type of values: by ``base`` alone, or under ExpGuard over it.

    ExpGuard (Roux, Zimmer and Pokutta, "On the Byzantine-Resilience of Distillation-Based Federated Learning", ICLR 2025, arXiv
    2402.12265) asks the base only where the centre is::

        score_k = mean over rows of || y_k - base(y) ||
        w_k <- w_k exp(-eta score_k),   the result is the mean of the y_k, weighted by w_k

    All start with a weight of 1, and keep theirs from round to round, in ``server.memory``. Deviations from the official code:
    clients may take part in some rounds only, so those of a round are scored against their mean score (see ``discounted``);
    scores are distances over every base, where the code takes the filter's projections over its filter; and eta = 0 is off: the
    base's own result, where the code gives the plain mean. It has no default for eta.

    Args:
        server: the server.
        values: (K, P, C), one table a client.
        clients: their ids.
        base: a reduction, from values to (P, C).
        expguard: eta, 0 = off.
    """
    centre = base(values)
    if not expguard:
        return centre
    nothing = torch.zeros(len(server.clients), dtype=torch.float64)
    everybody = server.memory.tensor(LOG_WEIGHTS) if LOG_WEIGHTS in server.memory else nothing
    places = torch.tensor(sorted(clients))
    now = discounted(everybody[places], outlier_scores(values, centre).cpu(), expguard)
    server.memory[LOG_WEIGHTS] = everybody.index_copy(0, places, now)
    weights = now.softmax(0)
    server.report({"least_weight": float(weights.min() * len(places))}, prefix="client_")
    return mean(values, weights.to(values.device))
