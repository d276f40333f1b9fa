"""Fields of the shipped strategies that do nothing while other fields hold certain values: what no type can say."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, final

from fedkd.aggregate.robust import dropped
from fedkd.experiment.algorithm.participation import cohort_size
from fedkd.experiment.unused import Unused
from fedkd.losses.distillers import DISTILLERS
from fedkd.methods.contrastive import BASES

if TYPE_CHECKING:
    from fedkd.experiment.experiment import Experiment


class Condition(ABC):
    """Where a field of a strategy does nothing."""

    @abstractmethod
    def idle(self, experiment: Experiment) -> str:
        """Why it does nothing in this experiment, or nothing where it counts."""


@final
class When(Condition):
    """It counts only where another field holds one of these values."""

    def __init__(self, name: str, *values: Any) -> None:
        self.name, self.values = name, values

    def idle(self, experiment: Experiment) -> str:
        """The other field, if it holds something else."""
        if getattr(experiment.strategy, self.name) in self.values:
            return ""
        return f"it counts only with strategy.{self.name} = {' or '.join(map(str, self.values))}"


@final
class Unless(Condition):
    """It counts for nothing where these other fields hold these values, all of them."""

    def __init__(self, **values: Any) -> None:
        self.values = values

    def idle(self, experiment: Experiment) -> str:
        """The other fields, if all hold these values."""
        if any(getattr(experiment.strategy, name) != value for name, value in self.values.items()):
            return ""
        return f"it counts for nothing with {' and '.join(f'strategy.{name} = {value}' for name, value in self.values.items())}"


@final
class Instead(Condition):
    """A key of the experiment takes its place where that is set."""

    def __init__(self, key: str) -> None:
        self.key = key

    def idle(self, experiment: Experiment) -> str:
        """The key, if it is set."""
        return f"{self.key} takes its place" if getattr(experiment, self.key) else ""


@final
class WithLabels(Condition):
    """It counts only where the public samples, if there are any, have labels."""

    def idle(self, experiment: Experiment) -> str:
        """That they have none."""
        data = experiment.data
        return "the public samples have no labels" if data.public and not data.public_labels else ""


@final
class Within(Condition):
    """It counts only after so many rounds, of which there must be more."""

    def __init__(self, name: str) -> None:
        self.name = name

    def idle(self, experiment: Experiment) -> str:
        """That the run ends before."""
        first = getattr(experiment.strategy, self.name)
        return "" if first < experiment.rounds else f"strategy.{self.name} = {first} rounds, and there are {experiment.rounds}"


@final
class OfSomebody(Condition):
    """A share of the clients of a round that must come to at least one, where an aggregate leaves that many out."""

    def __init__(self, share: str) -> None:
        self.share = share

    def idle(self, experiment: Experiment) -> str:
        """That it comes to none."""
        clients = cohort_size(experiment)
        share = getattr(experiment.strategy, self.share)
        return "" if dropped(share, clients) else f"a share of {share} of {clients} clients is none, and nobody is left out"


_ON_LOGITS = [name for name, recipe in DISTILLERS.items() if not recipe.needs & {"features", "maps", "images"}]
_SOFTENED = When("loss", *(name for name in _ON_LOGITS if "temperature" in DISTILLERS[name].option_names))
_SOFT_BASE = When("base", *(name for name, base in BASES.items() if hasattr(base, "temperature")))  # a field with a default

#: Strategy -> field -> where it does nothing: the first condition that holds is told.
IDLE_FIELDS: dict[str, dict[str, tuple[Condition, ...]]] = {
    "born_again": {"variant": (Within("generation"),), "label_weight": (Within("generation"),)},
    "byot": {"temperature": (Unless(alpha=0), Unless(distillation_scale=0)), "distillation_scale": (Unless(alpha=0),)},
    "cfd": {"bits_up": (Instead("uplink"),), "bits_down": (Instead("downlink"),)},
    "cl_ilr": {"temperature": (Unless(beta=1),)},
    "codistillation": {"loss": (Unless(weight=0), Unless(burn_in=1)), "weight": (Unless(burn_in=1),)},
    "cronus": {
        "aggregate": (Within("local_rounds"),),
        "corrupt": (Within("local_rounds"), When("aggregate", "trimmed_mean", "spectral_filter"), OfSomebody("corrupt")),
    },
    "d_distillation": {"degree": (When("graph", "random_regular"),), "graph": (Unless(rho=0),)},
    "dcm": {"temperature": (Unless(weight=0),)},
    "dgkd": {"drop": (Unless(assistants=()), Unless(balance=0)), "temperature": (Unless(balance=0),)},
    "dml": {
        "target": (Unless(weight=0),),
        "loss": (Unless(weight=0),),
        "temperature": (Unless(weight=0),),
        "ramp": (Unless(weight=0),),
    },
    "dsfl": {"temperature": (When("sharpening", "entropy_reduction"),), "exponent": (When("sharpening", "power"),)},
    "fedema": {"tau": (When("scale", 0),)},
    "feddf": {
        **dict.fromkeys(("validate_every", "patience", "batch_size", "lr", "loss"), (Unless(steps=0),)),
        "temperature": (Unless(steps=0), _SOFTENED),
    },
    "fedkd": {"least": (Unless(kl=0, hidden=0),)},
    "fedmd": {"temperature": (_SOFTENED,)},
    "fedmd_nfdp": {"subsample": (When("epsilon", 0),)},
    "fedntd": {"temperature": (Unless(beta=0),)},
    "fml": {"loss": (Unless(alpha=1, beta=1),), "temperature": (Unless(alpha=1, beta=1), _SOFTENED)},
    "fedprotocl": {"prototypes": (Within("warm_up"),), "alpha": (Within("warm_up"),)},
    "kdcl": {"target": (Unless(weight=0),), "temperature": (Unless(weight=0),), "ramp": (Unless(weight=0),)},
    "local_encoders": {"temperature": (_SOFT_BASE,)},
    "mcl": {"soft_temperature": (Unless(soft_vcl_weight=0, soft_icl_weight=0, logit_weight=0), Unless(weight=0))},
    "mean_teacher": {"ramp": (Unless(weight=0),)},
    "moon": {"temperature": (Unless(mu=0),)},
    "multi_teacher": {
        "target": (Unless(weight=0), When("loss", *_ON_LOGITS)),
        "loss": (Unless(weight=0),),
        "loss_options": (Unless(weight=0),),
        "temperature": (Unless(weight=0),),
        "teacher_weights": (When("target", "weighted"),),
        "vote_noise": (When("target", "vote"),),
        "label_weight": (WithLabels(),),
    },
    "you2017": {
        "temperature": (Unless(weight=0),),
        "margin": (Unless(relation_weight=0),),
        "label_weight": (WithLabels(),),
    },
}


def idle_fields(experiment: Experiment, name: str) -> Iterator[Unused]:
    """The fields of a strategy of this name that do nothing here. Weights of 0 and short runs are tries made on purpose."""
    for field, conditions in IDLE_FIELDS.get(name, {}).items():
        for condition in conditions:
            if why := condition.idle(experiment):
                yield Unused(f"strategy.{field}", why, harmless=isinstance(condition, Unless | Within))
                break
