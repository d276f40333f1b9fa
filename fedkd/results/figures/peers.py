"""The figure of a run with peers: how each does, how far they agree, and what distillation weighs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedkd.results.figures.lines import LEFT, RIGHT, finish_panel, measured, plot_line, second_axis
from fedkd.results.figures.picture import save_figure, styled_figure
from fedkd.results.figures.style import COLOURS, LINES
from fedkd.results.recorded import RecordedRun
from fedkd.results.row_keys import describe_key

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]

#: More peers than this are drawn in one grey: no legend could tell them apart.
NAMED_PEERS = 8
#: The last of the palette, black, is for what speaks of all peers.
OF_PEERS, OF_ALL = COLOURS[:-1], COLOURS[-1]
#: What speaks of all peers -> its line.
TOGETHER = {"mean_peer_accuracy": (0, (3, 1)), "ensemble_accuracy": "-"}
WEIGHT = "distillation_weight"


def has_peers(run: RecordedRun) -> bool:
    """Whether the run has logged anything for ``peers`` to draw."""
    return any(row.get("peer_accuracies") for row in run.rows)


def peers(run: RecordedRun, path: str | Path) -> list[Path]:
    """Draw a run that ``has_peers``, against rounds, as .png and .svg; gives the files.

    Panels: the accuracy of each peer, their mean and their ensemble; agreement and divergence, if there are two peers or more;
    the weight of distillation and its parts of the loss, if the run logged any.
    """
    panels = [_draw_accuracies]
    panels += [_draw_agreement] if measured(run.rows, "agreement") else []
    panels += [_draw_distillation] if _distillation(run.rows) else []
    with styled_figure(width=4.3 * len(panels), height=4.1) as figure:
        axes = figure.subplots(1, len(panels), squeeze=False, sharex=True, gridspec_kw={"wspace": 0.06})
        for axis, draw in zip(axes[0], panels, strict=True):
            draw(run, axis)
        return save_figure(figure, Path(path), [".png", ".svg"])


def peer_names(run: RecordedRun) -> list[str]:
    """What the peers are called, in order: ``peer 0 (cnn)`` where they are clients, ``peer 0`` where they share a net."""
    clients = {client for row in run.rows for client in row.get("peer_clients") or ()}
    if clients:
        architectures = _architectures(run)
        return [f"peer {client} ({architectures[client]})" for client in sorted(clients)]
    return [f"peer {position}" for position in range(max(len(row.get("peer_accuracies") or ()) for row in run.rows))]


def accuracies_of(run: RecordedRun) -> tuple[Floats, Floats]:
    """The measured rounds (R,), and each peer's accuracy in them (K, R): NaN where a client did not answer."""
    rows = measured(run.rows, "peer_accuracies")
    clients = sorted({client for row in rows for client in row.get("peer_clients") or ()})
    table = np.full((len(peer_names(run)), len(rows)), np.nan)
    for column, row in enumerate(rows):
        who = row.get("peer_clients") or range(len(row["peer_accuracies"]))
        places = [clients.index(client) for client in who] if clients else list(who)
        table[places, column] = np.array(row["peer_accuracies"], dtype=np.float64)
    return np.array([row["round"] for row in rows], dtype=np.float64), table


def _architectures(run: RecordedRun) -> Sequence[str]:
    """The net of each client, as the experiment dealt them out."""
    from fedkd.experiment.algorithm.net_shares import deal, read_nets

    nets = read_nets(run.experiment.get("nets", "cnn"))
    shares = nets if isinstance(nets, Mapping) else {str(nets): 1.0}
    shares = {key.removeprefix("nets."): value for key, value in run.experiment.items() if key.startswith("nets.")} or shares
    return deal(tuple(shares), tuple(map(float, shares.values())), int(run.experiment["data.clients"]), run.seed)


def _draw_accuracies(run: RecordedRun, axis: Axes) -> None:
    from matplotlib.ticker import PercentFormatter

    rounds, table = accuracies_of(run)
    for name, accuracies, style in zip(peer_names(run), table, _styles(len(table)), strict=True):
        axis.plot(rounds, accuracies, linewidth=1.2, **({"label": name} | style))
    for key, line in TOGETHER.items() if len(table) > 1 else ():
        plot_line(axis, run.rows, key, label=describe_key(key).short, color=OF_ALL, linestyle=line, linewidth=2.4)
    axis.set_title("Each peer, and all together", loc="left")
    axis.set_ylabel(describe_key("accuracy").axis)
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    _show_trained(axis, run.rows)
    finish_panel(axis)


def _show_trained(axis: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """As much of the axis as trained peers need: those of round 0 guess, which would squeeze all that follows."""
    trained = [row for row in measured(rows, "peer_accuracies") if row["round"] > 0]
    shown = [value for row in trained for value in (*row["peer_accuracies"], *(row[key] for key in TOGETHER if key in row))]
    if shown:
        margin = max(0.005, 0.05 * (max(shown) - min(shown)))
        axis.set_ylim(max(0.0, min(shown) - margin), min(1.0, max(shown) + margin))


def _styles(count: int) -> Iterator[dict[str, Any]]:
    """Of so many peers: told apart by colour and by line, or all alike with one entry in the legend."""
    for index in range(count):
        if count <= NAMED_PEERS:
            yield {"color": OF_PEERS[index % len(OF_PEERS)], "linestyle": LINES[index % len(LINES)]}
        else:
            yield {"color": "#999999", "alpha": 0.6, "label": f"{count} peers" if index == 0 else "_"}


def _draw_agreement(run: RecordedRun, axis: Axes) -> None:
    from matplotlib.ticker import PercentFormatter

    plot_line(axis, run.rows, "agreement", label=describe_key("agreement").short, **LEFT)
    axis.set_title("How far two peers agree", loc="left")
    axis.set_ylabel(describe_key("agreement").axis, color=LEFT["color"])
    axis.set_ylim(0, 1)
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    beside = second_axis(axis, describe_key("peer_divergence").axis)
    plot_line(beside, run.rows, "peer_divergence", label=describe_key("peer_divergence").short, **RIGHT)
    beside.set_ylim(bottom=0)
    finish_panel(axis, beside)


def _draw_distillation(run: RecordedRun, axis: Axes) -> None:
    """The parts of the loss on the left, their weight on the right; what is alone stands on the left."""
    keys = _distillation(run.rows)
    parts = [key for key in keys if key != WEIGHT]
    weight = describe_key(WEIGHT)
    axes = [axis, second_axis(axis, weight.axis)] if WEIGHT in keys and parts else [axis]
    for key, colour, line in zip(parts, cycle([LEFT["color"], *COLOURS[2:-1]]), cycle(LINES[::2] + LINES[1::2])):
        plot_line(axis, run.rows, key, label=describe_key(key).short, color=colour, linestyle=line, linewidth=1.8)
    if WEIGHT in keys:
        plot_line(axes[-1], run.rows, WEIGHT, label=weight.short, **RIGHT)
    axis.set_title("Distillation", loc="left")
    alone = {0: RIGHT["color"], 1: LEFT["color"]}  # an axis of one line has its colour
    axis.set_ylabel("part of the loss" if parts else weight.axis, color=alone.get(len(parts), "black"))
    for each in axes:
        low, high = each.get_ylim()
        each.set_ylim(min(0.0, low) if low < -0.1 * high else 0.0, high)
    finish_panel(*axes)


def _distillation(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys that speak of distillation, in the order in which they were first logged."""
    keys = dict.fromkeys(key for row in rows for key, value in row.items() if "distillation" in key and value is not None)
    return [key for key in keys if all(isinstance(row.get(key), (int, float, type(None))) for row in rows)]
