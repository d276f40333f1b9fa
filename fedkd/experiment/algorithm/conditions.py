"""Where a field of a strategy does nothing: what no type can say, said by the strategy itself in ``idle``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, final

from fedkd.aggregate.robust import dropped
from fedkd.experiment.algorithm.participation import cohort_size
from fedkd.experiment.algorithm.settings import Settings


class Condition(ABC):
    """A condition under which a field does nothing."""

    #: Whether nobody is misled if the field is set all the same: weights of 0 and short runs are tries made on purpose.
    harmless: bool = False

    @abstractmethod
    def explain(self, strategy: Any, experiment: Settings) -> str:
        """Why this strategy's field does nothing in an experiment of these settings; empty where it counts."""


@final
class When(Condition):
    """The field counts only where another one holds one of these values."""

    def __init__(self, name: str, *values: Any) -> None:
        self.name, self.values = name, values

    def explain(self, strategy: Any, experiment: Settings) -> str:
        """Names the other field, if it holds something else."""
        if getattr(strategy, self.name) in self.values:
            return ""
        return f"it counts only with strategy.{self.name} = {' or '.join(map(str, self.values))}"


@final
class Unless(Condition):
    """The field counts for nothing where these other ones hold these values, all of them."""

    harmless: bool = True

    def __init__(self, **values: Any) -> None:
        self.values = values

    def explain(self, strategy: Any, experiment: Settings) -> str:
        """Names the other fields, if all hold these values."""
        if any(getattr(strategy, name) != value for name, value in self.values.items()):
            return ""
        return f"it counts for nothing with {' and '.join(f'strategy.{name} = {value}' for name, value in self.values.items())}"


@final
class IfSet(Condition):
    """It counts for nothing where another field is set."""

    def __init__(self, name: str) -> None:
        self.name = name

    def explain(self, strategy: Any, experiment: Settings) -> str:
        """Names the other field, if it is set."""
        return f"strategy.{self.name} takes its place" if getattr(strategy, self.name) else ""


@final
class LeftOut(Condition):
    """It counts for nothing where all these terms stand in ``without``."""

    harmless: bool = True

    def __init__(self, *terms: str) -> None:
        self.terms = terms

    def explain(self, strategy: Any, experiment: Settings) -> str:
        """Names the terms, if all are left out."""
        return "" if set(self.terms) - set(strategy.without) else f"strategy.without leaves out {' and '.join(self.terms)}"


@final
class Always(Condition):
    """It never counts. ``harmless``: a key that other strategies use, which a table of several may hold."""

    def __init__(self, reason: str, *, harmless: bool = False) -> None:
        self.reason, self.harmless = reason, harmless

    def explain(self, strategy: Any, experiment: Settings) -> str:
        """The reason."""
        return self.reason


@final
class Instead(Condition):
    """A key of the experiment takes the field's place where that is set."""

    def __init__(self, key: str) -> None:
        self.key = key

    def explain(self, strategy: Any, experiment: Settings) -> str:
        """Names the key, if it is set."""
        return f"{self.key} takes its place" if getattr(experiment, self.key) else ""


@final
class WithLabels(Condition):
    """The field counts only where the public samples, if there are any, have labels."""

    def explain(self, strategy: Any, experiment: Settings) -> str:
        """Says that they have none."""
        data = experiment.data
        return "the public samples have no labels" if data.public and not data.public_labels else ""


@final
class Beyond(Condition):
    """A number of public samples, which says nothing where there are fewer."""

    harmless: bool = True

    def __init__(self, name: str) -> None:
        self.name = name

    def explain(self, strategy: Any, experiment: Settings) -> str:
        """Says how many there are."""
        public = experiment.data.public
        fewer = 0 < public < getattr(strategy, self.name)
        return f"there are {public} public samples, and all are taken" if fewer else ""


@final
class Within(Condition):
    """The field counts only after so many rounds, of which there must be more."""

    harmless: bool = True

    def __init__(self, name: str) -> None:
        self.name = name

    def explain(self, strategy: Any, experiment: Settings) -> str:
        """Says that the run ends before."""
        first = getattr(strategy, self.name)
        return "" if first < experiment.rounds else f"strategy.{self.name} = {first} rounds, and there are {experiment.rounds}"


@final
class OfSomebody(Condition):
    """A share of the clients of a round that must come to at least one, where an aggregate leaves that many out."""

    def __init__(self, share: str) -> None:
        self.share = share

    def explain(self, strategy: Any, experiment: Settings) -> str:
        """Says that it comes to none."""
        clients = cohort_size(experiment)
        share = getattr(strategy, self.share)
        return "" if dropped(share, clients) else f"a share of {share} of {clients} clients is none, and nobody is left out"


#: A field, or what ``Needs`` names, such as "views" -> where it does nothing; the first condition that holds is told.
Idle = Mapping[str, tuple[Condition, ...]]


def why_idle(strategy: Any, experiment: Settings, name: str) -> str:
    """Why a field of the strategy, or what its needs name, does nothing here; empty where it counts."""
    return next(filter(None, (each.explain(strategy, experiment) for each in strategy.idle.get(name, ()))), "")
