"""What fedx_budget.py found, as Markdown and as a figure: a row and a dot a setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cells import intervals_over, put_tables

DOCS = Path(__file__).parents[1] / "docs"
PAGE, FIGURE = DOCS / "results" / "fedx.md", DOCS / "images" / "fedx_budget.png"
COSTS = ("seconds", "bytes")
TITLES = ("data and net", "rounds x epochs", "changed", "seeds", "SimCLR", "FedX", "gain", "uniformity", "time", "bytes")
LABELS = ("how much more FedX spreads features than SimCLR", "points over SimCLR")


@dataclass(frozen=True)
class Pair:
    """The runs of a setting with FedX, and those of the same seeds without it."""

    place: str
    rounds: int
    epochs: int
    changed: str
    fedx: Sequence[Mapping[str, Any]]
    base: Sequence[Mapping[str, Any]]

    @property
    def gain(self) -> float:
        """In points, the mean over seeds."""
        return 100 * (mean_of("last", self.fedx) - mean_of("last", self.base))

    @property
    def spread(self) -> float:
        """How much lower FedX's uniformity is: features are spread more; not a number for the official code."""
        return uniformity(self.base) - uniformity(self.fedx)

    def row(self) -> list[str]:
        """How many seeds, both accuracies, the gain paired by seed, both uniformities, and what it costs in time and bytes."""
        from fedkd.results.statistics import percent

        accuracies = [percent([line["last"] for line in lines]) for lines in (self.base, self.fedx)]
        both = f"{uniformity(self.base):.2f} / {uniformity(self.fedx):.2f}".replace("nan / nan", "")
        costs = [(mean_of(key, self.fedx), mean_of(key, self.base)) for key in COSTS]
        ratios = [f"{mine / theirs:.1f} x" if mine and theirs else "" for mine, theirs in costs]
        gain = intervals_over(self.fedx, self.base, "last")
        budget = f"{self.rounds} x {self.epochs}"
        return [self.place, budget, self.changed, str(len(self.fedx)), *accuracies, gain, both, *ratios]


def mean_of(key: str, lines: Sequence[Mapping[str, Any]]) -> float:
    """Over seeds; 0 where lines have no such key."""
    return float(sum(line.get(key, 0) for line in lines) / len(lines))


def uniformity(lines: Sequence[Mapping[str, Any]]) -> float:
    """After the last round, the mean over seeds: the lower, the more features are spread."""
    return float(sum(line["curves"].get("uniformity", [float("nan")])[-1] for line in lines) / len(lines))


def table(pairs: Sequence[Pair]) -> str:
    """A row a setting, as Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (TITLES, ["---"] * len(TITLES), *(pair.row() for pair in pairs)))


def explain(pairs: Sequence[Pair]) -> str:
    """Whether FedX gains where it spreads features as SimCLR does: over the settings of our code."""
    from scipy.stats import spearmanr

    ours = [pair for pair in pairs if pair.spread == pair.spread]
    rank = spearmanr([pair.gain for pair in ours], [pair.spread for pair in ours])
    return f"Gain, and how much more FedX spreads features: rank correlation {rank.statistic:.2f} over {len(ours)} settings."


def write_page(pairs: Sequence[Pair]) -> None:
    """The table and what follows from it between their marks, and the figure."""
    put_tables(PAGE, {"where it turns": table(pairs), "spread": explain(pairs)})
    draw(pairs)


def draw(pairs: Sequence[Pair]) -> None:
    """A dot a setting: FedX whole and without its global contrastive term, each with SimCLR's views or with its own."""
    from fedkd.results.figures.picture import save_figure, styled_figure

    with styled_figure(6.4, 4.2) as figure:
        axis = figure.subplots()
        axis.axhline(0, color="#777777", linewidth=1.0, zorder=1)
        axis.axvline(0, color="#777777", linewidth=1.0, zorder=1)
        for label, marker, without in (("FedX", "o", False), ("without its global contrastive term", "^", True)):
            for views, face in (("SimCLR's views", "full"), ("FedX's views", "none")):
                mine = [
                    pair
                    for pair in pairs
                    if ("without" in pair.changed) == without and ("views" in pair.changed) == (face == "none")
                ]
                style: dict[str, Any] = {"marker": marker, "fillstyle": face, "linestyle": "", "markersize": 7}
                colour = "#d55e00" if without else "#0072b2"
                axis.plot(
                    [pair.spread for pair in mine],
                    [pair.gain for pair in mine],
                    color=colour,
                    label=f"{label}, {views}",
                    **style,
                )
        axis.set_xlabel(LABELS[0])
        axis.set_ylabel(LABELS[1])
        axis.legend(fontsize=8)
        save_figure(figure, FIGURE, [".png"], dpi=110)
