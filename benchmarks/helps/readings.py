"""What the lines of ../when_helps.py say: gains over a base, seed by seed, and which method is advised for a condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from helps.plan import BASES, DEFAULT, KINDS, METHODS, PUBLIC, ROUNDS, Cell, Condition

Found = Mapping[Cell, Mapping[str, Any]]
#: Key of a line -> what it is called.
MEASURES = {"own": "clients' own tests", "all": "all classes"}
#: Points within which two methods count as equal.
NEAR = 2.0
#: The least of chance that a base must reach, and the most that leaves room above it.
OVER_CHANCE, SATURATED = 1.5, 0.95
CLASSES = {"images": 10, "signals": 7}


@dataclass(frozen=True)
class Gain:
    """Points over a base: the mean over seeds, half of its 95 % t interval (NaN for one seed), and each seed's."""

    mean: float
    half: float
    each: tuple[float, ...]

    @property
    def claimed(self) -> bool:
        """Whether the interval leaves out 0: never with one seed."""
        return abs(self.mean) > self.half

    def __str__(self) -> str:
        return f"{round(self.mean, 1) + 0.0:+.1f}" + (f" ± {self.half:.1f}" if len(self.each) > 1 else "")


def gain_of(values: Mapping[int, float], base: Mapping[int, float]) -> Gain | None:
    """Of shares by seed, over those of the seeds that the base has too; None of none."""
    from fedkd.results.statistics import mean_interval

    each = tuple(100 * (values[seed] - base[seed]) for seed in sorted(values.keys() & base.keys()))
    return Gain(*map(float, mean_interval(each)), each) if each else None


def by_seed(found: Found, kind: str, at: Condition, method: str, key: str, rounds: int = ROUNDS) -> dict[int, float]:
    """A number of each seed; those that use no public samples have one number whatever these are."""
    looked_for = Cell(kind, at if method in PUBLIC else at.without_public(), method, 0, rounds)
    return {cell.seed: line[key] for cell, line in found.items() if replace(cell, seed=0) == looked_for}


def gain(found: Found, kind: str, at: Condition, method: str, base: str, key: str) -> Gain | None:
    """A method over a base in one condition."""
    return gain_of(by_seed(found, kind, at, method, key), by_seed(found, kind, at, base, key))


def mean_of(found: Found, kind: str, at: Condition, method: str, key: str) -> float | None:
    """The mean over seeds."""
    values = by_seed(found, kind, at, method, key).values()
    return sum(values) / len(values) if values else None


def counts(found: Found, kind: str, at: Condition) -> bool | None:
    """Whether a condition counts: both bases are above chance where they should be, and leave room. None if not measured."""
    alone, averaged = mean_of(found, kind, at, "local", "own"), mean_of(found, kind, at, "fedavg", "all")
    if alone is None or averaged is None:
        return None
    return min(alone, averaged) >= OVER_CHANCE / CLASSES[kind] and max(alone, averaged) <= SATURATED


def of_whole_seeds(found: Found, cells: Sequence[Cell]) -> dict[Cell, Mapping[str, Any]]:
    """The lines of seeds of which all cells are there, so that the same seeds are compared; all lines if there are none."""
    missing = {cell.seed for cell in cells if cell not in found}
    return {cell: line for cell, line in found.items() if cell.seed not in missing} or dict(found)


def that_do_not_count(found: Found) -> list[str]:
    """Measured conditions that do not count, as "kind, what is varied"."""
    there = dict.fromkeys((cell.kind, cell.condition) for cell in found if cell.method in BASES)
    return [f"{kind}, {at.named()}" for kind, at in there if counts(found, kind, at) is False]


@dataclass(frozen=True)
class Case:
    """What a newcomer has: a condition, and the methods that he may use there."""

    name: str
    at: Condition
    allowed: tuple[str, ...] = (*BASES, *METHODS)


#: Those whose clients may have nets that differ.
NETS_MAY_DIFFER = ("local", "fedmd", "dsfl", "feddf", "fd", "fedproto", "fml")
CASES = (
    Case("10 clients, alpha 0.3, 30 samples each: the setting that all others vary", DEFAULT),
    Case("clients with one or two classes (alpha 0.05)", replace(DEFAULT, alpha=0.05)),
    Case("clients that are nearly alike (alpha 10)", replace(DEFAULT, alpha=10.0)),
    Case("10 samples a client", replace(DEFAULT, samples=10)),
    Case("100 samples a client", replace(DEFAULT, samples=100)),
    Case("3 clients", replace(DEFAULT, clients=3)),
    Case("30 clients", replace(DEFAULT, clients=30)),
    Case("nets that differ", DEFAULT, NETS_MAY_DIFFER),
    Case("no weights may travel", DEFAULT, ("local", "fedmd", "dsfl", "fd", "fedproto")),
    Case("no weights, 50 public samples", replace(DEFAULT, public=50), ("local", "fedmd", "dsfl", "fd", "fedproto")),
    Case(
        "no weights, public samples of another data set",
        replace(DEFAULT, public_of="other"),
        ("local", "fedmd", "dsfl", "fd", "fedproto"),
    ),
    Case("no weights, no public samples", DEFAULT, ("local", "fd", "fedproto")),
)


@dataclass(frozen=True)
class Advice:
    """The method with the best mean over the kinds of data, how far it is above the better base on each, and its equals."""

    method: str
    gains: Mapping[str, Gain]
    near: tuple[str, ...]
    seeds: int


def advise(found: Found, case: Case, key: str) -> Advice | None:
    """Who is best in the mean over the kinds of data, and who is within two points of it, the fewest bytes first.

    Gains are over the better of the allowed bases on each kind. Kinds are those on which the condition counts, and seeds
    those that all allowed methods have; None without any.
    """
    kinds = [kind for kind in KINDS if counts(found, kind, case.at)]
    shares = {(method, kind): by_seed(found, kind, case.at, method, key) for method in case.allowed for kind in kinds}
    seeds = set.intersection(*map(set, shares.values())) if shares else set()
    if not seeds:
        return None
    shares = {who: {seed: by[seed] for seed in seeds} for who, by in shares.items()}
    points = {who: 100 * sum(by.values()) / len(seeds) for who, by in shares.items()}
    mean = {method: sum(points[method, kind] for kind in kinds) / len(kinds) for method in case.allowed}
    best = max(case.allowed, key=lambda method: mean[method])
    gains = {}
    for kind in kinds:
        base = max((base for base in BASES if base in case.allowed), key=lambda base: points[base, kind])
        gains[kind] = gain_of(shares[best, kind], shares[base, kind])

    def cost(method: str) -> float:
        return sum(bytes_of(found, kind, case.at, method) for kind in kinds)

    near = [method for method in case.allowed if method != best and mean[best] - mean[method] <= NEAR]
    return Advice(best, gains, tuple(sorted(near, key=cost)), len(seeds))


def bytes_of(found: Found, kind: str, at: Condition, method: str) -> float:
    """What a client sends and is sent in a run."""
    return sum(mean_of(found, kind, at, method, way) or 0.0 for way in ("up", "down"))
