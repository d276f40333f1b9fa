"""Who holds what: training samples by class and client."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedkd.results.data import RecordedData
from fedkd.results.imbalance import imbalance
from fedkd.results.recorded import Seeds
from fedkd.results.report.heat_map import heat_map
from fedkd.results.report.names import in_detail
from fedkd.results.report.parts import Figure, Panel, Section, Table

#: A longer table is left out: data.json has it.
MOST_CELLS = 12_000


def partition(groups: Sequence[Seeds]) -> Section:
    """The section; a partition that several runs share is shown once."""
    shown: dict[str, tuple[str, RecordedData]] = {}
    for more, run in in_detail(groups):
        if run.data is not None and any(map(any, run.data.client_classes)):
            shown.setdefault(run.data.partition_hash, (more, run.data))
    figures = [_figure(data, more if len(shown) > 1 else "") for more, data in shown.values()]
    intro = " ".join(dict.fromkeys(imbalance(data.client_classes, data.classes) for _, data in shown.values()))
    return Section("partition", "Who holds what", intro, figures)


def _figure(data: RecordedData, more: str) -> Figure:
    counts, names = np.array(data.client_classes, dtype=np.float64).T, list(data.classes)  # (C, K)
    if any(data.unlabelled):
        counts, names = np.vstack([counts, data.unlabelled]), [*names, "no label"]
    clients = [str(client) for client in range(counts.shape[1])]
    totals = counts.sum(axis=0)
    most, least = int(totals.argmax()), int(totals.argmin())
    finding = (
        f"{int(totals.sum()):,} training samples of {len(data.classes)} classes at {len(clients)} clients. Client {most} holds "
        f"most, {int(totals[most]):,}, client {least} fewest, {int(totals[least]):,}; {int((counts == 0).sum())} of "
        f"{counts.size} pairs of a class and a client are empty."
    )
    said = [[f"{int(value)}" for value in row] for row in counts]
    high = float(counts.max()) or 1.0
    drawing = heat_map(counts, names, clients, names=("class", "client"), finding=finding, low=0.0, high=high, said=said)
    what = "Training samples by class and client"
    rows = [[name, *values, f"{sum(map(int, values))}"] for name, values in zip(names, said, strict=True)]
    rows.append(["all", *(f"{int(total)}" for total in totals), f"{int(totals.sum())}"])
    table = Table(what, ["class", *clients, "all"], rows)
    if counts.size > MOST_CELLS:
        quantiles = np.quantile(counts, [0, 0.25, 0.5, 0.75, 1], axis=1).T
        rows = [[name, *(f"{value:g}" for value in row)] for name, row in zip(names, quantiles, strict=True)]
        table = Table(f"{what}, over clients", ["class", "fewest", "first quarter", "median", "third quarter", "most"], rows)
    return Figure(f"{what}, from 0 (dark) to {int(high):,} (light){more}", [Panel("", drawing)], table)
