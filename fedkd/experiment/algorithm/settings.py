"""Settings: every key of an experiment but its strategy. What an algorithm's two halves may read of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from fedkd.experiment.algorithm.loaded import federation_of
from fedkd.experiment.algorithm.net_shares import FUNCTION, deal, read_nets
from fedkd.experiment.algorithm.sections import (
    Attacking,
    Data,
    Engine,
    Evaluation,
    Faults,
    Guarding,
    Names,
    Privacy,
    Section,
    Training,
)

if TYPE_CHECKING:
    from fedkd.data import Federation


class Settings(Section):
    """The keys that every strategy shares, validated and frozen. An ``Experiment`` is these and a strategy."""

    rounds: int = Field(20, ge=1)
    seed: int = 0
    participation: float = Field(1.0, gt=0, le=1)
    evaluate_every: int = Field(1, ge=1)
    evaluate_clients: int = Field(100, ge=0)
    nets: str | dict[str, float] | Callable[..., Any] = "cnn"
    server_net: str = ""
    shared_net: str = ""
    uplink: Names = ()
    downlink: Names = ()
    timeout: float = Field(3600.0, gt=0)
    enough: float = Field(1.0, gt=0, le=1)
    late_rounds: int = Field(0, ge=0)
    train: Training = Training()
    data: Data = Data()
    evaluation: Evaluation = Evaluation()
    net_options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    faults: Faults = Faults()
    attack: Attacking = Attacking()
    privacy: Privacy = Privacy()
    guard: Guarding = Guarding()
    engine: Engine = Engine()

    @field_validator("nets", mode="before")
    @classmethod
    def _split_nets(cls, given: object) -> object:
        return read_nets(given)

    @property
    def architectures(self) -> tuple[str, ...]:
        """The names of the clients' nets, in the order given."""
        return tuple(self.nets) if isinstance(self.nets, dict) else (self.nets if isinstance(self.nets, str) else FUNCTION,)

    def architecture_of(self, client: int) -> str:
        """The net of one client: the shares in whole clients, dealt out by a seeded draw."""
        return deal(self.architectures, self._shares, self.data.clients, self.seed)[client]

    @property
    def _shares(self) -> tuple[float, ...]:
        return tuple(self.nets.values()) if isinstance(self.nets, dict) else (1.0,)

    def lr(self, round: int) -> float:
        """The learning rate of a round."""
        return self.train.lr_at(round, self.rounds)

    def evaluates(self, round: int) -> bool:
        """Whether a round is evaluated: every so many, and the last."""
        return round % self.evaluate_every == 0 or round == self.rounds

    def federation(self) -> Federation:
        """Who holds which images. Loaded once a process, and again where the files have changed."""
        return federation_of(self.data, self.seed)

    @cached_property
    def run_federation(self) -> Federation:
        """The same as it was when first asked for: what changes on a disk while a run goes on is not for this run."""
        return self.federation()
