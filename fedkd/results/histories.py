"""Histories: what an experiment returns that ran with several seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, final

from fedkd.base.errors import InputError
from fedkd.results.history import History

if TYPE_CHECKING:
    import pandas as pd

    from fedkd.results.figures.picture import Picture


@final
class Histories(Mapping[int, History]):
    """A History a seed, in the order in which they ran: ``histories[3]`` is that of seed 3."""

    def __init__(self, by_seed: Mapping[int, History]) -> None:
        self._by_seed = dict(by_seed)

    def __getitem__(self, seed: int) -> History:
        """The History of a seed. Raises InputError for one that did not run."""
        if seed not in self._by_seed:
            raise InputError(f"no run of seed {seed}: there are {', '.join(map(str, self._by_seed)) or 'none'}")
        return self._by_seed[seed]

    def __iter__(self) -> Iterator[int]:
        """The seeds."""
        return iter(self._by_seed)

    def __len__(self) -> int:
        """How many seeds there are."""
        return len(self._by_seed)

    def __contains__(self, seed: object) -> bool:
        """Whether a seed ran."""
        return seed in self._by_seed

    def __repr__(self) -> str:
        """The seeds."""
        return f"Histories of seeds {', '.join(map(str, self._by_seed)) or 'none'}"

    def to_pandas(self) -> pd.DataFrame:
        """One row a seed and round, the seed in the first column."""
        import pandas as pd

        return pd.DataFrame([{"seed": seed, **row} for seed, history in self.items() for row in history.metrics])

    def summary(self, metric: str = "accuracy", *, last_k: int = 5) -> dict[str, dict[str, float]]:
        """``last``, ``best`` and ``mean_of_last`` k values of a metric, over the seeds that measured it; empty if none did.

        Of each the mean over ``seeds`` and its 95 % interval (Student's t): ``{"last": {"mean": ..., "low": ..., "high": ...,
        "seeds": ...}, ...}``; of a single seed the borders are NaN. "Best" is chosen on the test set: optimistic.
        """
        from fedkd.results.comparison.intervals import student_interval
        from fedkd.results.comparison.readings import readings

        found = [each for history in self.values() if (each := readings(history.metrics, metric, last_k))]
        named = {"last": "last", "best": "best", "mean_of_last": "mean"} if found else {}
        intervals = {name: student_interval([getattr(each, field) for each in found]) for name, field in named.items()}
        return {name: {**vars(interval), "seeds": len(found)} for name, interval in intervals.items()}

    def plot(
        self,
        metric: str = "accuracy",
        x: str | Sequence[str] = "rounds",
        *,
        target: float | None = None,
        title: str = "",
        style: str = "",
        width: str | float = "",
    ) -> Picture:
        """Draw the mean of a metric over the seeds with its 95 % band, as ``History.plot`` draws that of one.

        ``plot_histories`` draws several of them on top of each other.
        """
        return plot_histories({metric: self}, metric, x, target=target, title=title, style=style, width=width)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from fedkd.results.notebook import group_html

        return group_html({seed: history.metrics for seed, history in self.items()})


def plot_histories(
    groups: Mapping[str, History | Histories],
    metric: str = "accuracy",
    x: str | Sequence[str] = "rounds",
    *,
    target: float | None = None,
    title: str = "",
    style: str = "",
    width: str | float = "",
) -> Picture:
    """Draw these on top of each other, a line for each by its name; that of several seeds is their mean, with a 95 % band.

    Arguments, what is returned and what is refused are those of ``History.plot``.
    """
    from fedkd.results.figures.rows import plot_rows

    if not isinstance(groups, Mapping) or not groups:
        raise InputError(f"give Histories by name, as {{'fedmd': histories}}; got {groups!r:.60}")
    by_seed = {name: {0: group} if isinstance(group, History) else group for name, group in groups.items()}
    for name, group in by_seed.items():
        if not isinstance(group, Mapping) or not group or not all(isinstance(each, History) for each in group.values()):
            raise InputError(f"{name}: give a History, or Histories by seed; got {group!r:.60}")
    rows = {name: {seed: each.metrics for seed, each in group.items()} for name, group in by_seed.items()}
    return plot_rows(rows, metric, x, target=target, title=title, style=style, width=width)
