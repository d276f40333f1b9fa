"""What ../when_helps.py runs: methods, conditions, cells. Why, and what was expected: ../plans/when_helps.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helps.data import file_of

if TYPE_CHECKING:
    from fedkd import Experiment

DATA = Path(__file__).parents[2] / "runs" / "when_helps"
#: Kind of samples -> what its runs have in common.
KINDS: dict[str, dict[str, Any]] = {
    "images": {"nets": "mlp", "net_options": {"mlp": {"hidden": [64]}}, "train": {"epochs": 2, "batch_size": 10, "lr": 0.05}},
    "signals": {"nets": "mlp", "net_options": {"mlp": {"hidden": [64]}}, "train": {"epochs": 2, "batch_size": 10, "lr": 0.02}},
}
ROUNDS, VALIDATION = 15, 50
#: Those that the others are held against.
BASES: dict[str, dict[str, Any]] = {"local": {}, "fedavg": {}}
#: Method -> its keys that are not the defaults.
METHODS: dict[str, dict[str, Any]] = {
    "fedmd": {},
    "dsfl": {},
    "feddf": {"steps": 100, "patience": 50},
    "fd": {},
    "fedproto": {},
    "fedntd": {},
    "fml": {},
    "fedgen": {"alpha": 2.0, "beta": 2.0},
}
#: Whether fifteen rounds are enough: so many in the default setting, of these.
LONGER, LONG = 60, ("local", "fedavg", "fedmd", "fml", "fedgen")
#: Which of them ask for answers about public samples: the others' runs are the same whatever the public samples are.
PUBLIC = ("fedmd", "dsfl", "feddf")


@dataclass(frozen=True)
class Condition:
    """What is varied."""

    alpha: float = 0.3
    public: int = 200
    public_of: str = "same"
    clients: int = 10
    samples: int = 30  # for training at a client, in the mean

    def without_public(self) -> Condition:
        """The same for those that use no public samples."""
        return replace(self, public=DEFAULT.public, public_of=DEFAULT.public_of)

    def named(self) -> str:
        """What is not as in the default.

        >>> Condition(public_of="noise").named(), Condition().named()
        ('public of noise', 'default')
        """
        changed = {key: value for key, value in asdict(self).items() if value != getattr(DEFAULT, key)}
        return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in changed.items()) or "default"


DEFAULT = Condition()
#: Axis of a figure -> its values on either kind; the default's is among them. Signals have 327 public windows.
AXES: dict[str, dict[str, tuple[Any, ...]]] = {
    "alpha": dict.fromkeys(KINDS, (0.05, 0.1, 0.3, 1.0, 10.0)),
    "public": {"images": (50, 200, 1000), "signals": (50, 200, 320)},
    "public_of": dict.fromkeys(KINDS, ("same", "other", "noise")),
    "clients": dict.fromkeys(KINDS, (3, 10, 30)),
    "samples": dict.fromkeys(KINDS, (10, 30, 100)),
}


@dataclass(frozen=True)
class Cell:
    """One run."""

    kind: str
    condition: Condition
    method: str
    seed: int
    rounds: int = ROUNDS

    def strategy(self) -> dict[str, Any]:
        """The strategy's table."""
        return {"name": self.method, **{**BASES, **METHODS}[self.method]}

    def experiment(self) -> Experiment:
        """What is run."""
        from fedkd import Experiment

        at = self.condition
        public = {"public": at.public, "public_source": str(file_of(DATA, self.kind, at.public_of))}
        data = {
            "source": str(file_of(DATA, self.kind)),
            "clients": at.clients,
            "alpha": at.alpha,
            "self_balancing": True,
            "min_partition_size": 3,
            "client_test": 1 / 3,
            "validation": VALIDATION,
            "train_limit": VALIDATION + at.clients * at.samples * 3 // 2,
            **(public if self.method in PUBLIC else {}),
        }
        shared = {**KINDS[self.kind], "rounds": self.rounds, "evaluate_every": 10**6}
        return Experiment(strategy=self.strategy(), seed=self.seed, data=data, **shared)

    def setting(self) -> dict[str, Any]:
        """What a line is made with: another setting, another line."""
        shared = {**KINDS[self.kind], "rounds": self.rounds, "kind": self.kind}
        return {**shared, "condition": asdict(self.condition), "strategy": self.strategy()}


def conditions(kind: str) -> Iterator[Condition]:
    """The default, then each other value of each axis."""
    yield DEFAULT
    for axis, values in AXES.items():
        yield from (replace(DEFAULT, **{axis: value}) for value in values[kind] if value != getattr(DEFAULT, axis))


def plan(seeds: Iterable[int], kinds: Sequence[str] = tuple(KINDS)) -> list[Cell]:
    """All cells, each once: seed by seed, condition by condition, the bases first; then the longer runs."""
    cells = []
    for seed in seeds:
        for ats in zip(*map(conditions, kinds), strict=True):
            for kind, at in zip(kinds, ats, strict=True):
                for method in (*BASES, *METHODS):
                    cells.append(Cell(kind, at if method in PUBLIC else at.without_public(), method, seed))
        cells += [Cell(kind, DEFAULT, method, seed, LONGER) for kind in kinds for method in LONG]
    return list(dict.fromkeys(cells))
