"""Settings: every key of an experiment but its strategy. What an algorithm's two halves may read of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from fedkd.base.errors import InputError
from fedkd.data.partition import EACH_ITS_OWN
from fedkd.experiment.algorithm.asynchrony_section import Asynchrony
from fedkd.experiment.algorithm.clock_section import Clock
from fedkd.experiment.algorithm.data_section import Data
from fedkd.experiment.algorithm.loaded import federation_of
from fedkd.experiment.algorithm.net_shares import FUNCTION, deal, given_name, read_nets, shares_of
from fedkd.experiment.algorithm.record_section import Record
from fedkd.experiment.algorithm.section import Names, Section
from fedkd.experiment.algorithm.sections import Attacking, Engine, Evaluation, Faults, Guarding, Privacy, Training
from fedkd.experiment.algorithm.stop_section import Stopping

if TYPE_CHECKING:
    from fedkd.data import Federation


class Settings(Section):
    """The keys that every strategy shares, validated and frozen. An ``Experiment`` is these and a strategy."""

    rounds: int = Field(20, ge=1)
    """How many rounds are run. Row 0 of the metrics is measured before the first. ``rounds = 50``"""
    seed: int = 0
    """Where every draw of the run begins: initial weights, who holds what, batches, who takes part. ``seed = 1``"""
    participation: Annotated[float, Field(gt=0, le=1, strict=True)] | Literal["async"] = 1.0
    """Share of the clients that take part in a round, drawn anew each round; at least one client. Or "async": clients train all
    the time, see [asynchrony]; it goes by the virtual clock. ``participation = 0.1``
    """
    evaluate_every: int = Field(1, ge=1)
    """Rounds from one evaluation to the next. The last round is always evaluated. ``evaluate_every = 5``"""
    evaluate_clients: int = Field(100, ge=0)
    """At most this many clients are evaluated, drawn once for the run; 0 evaluates the server only. ``evaluate_clients = 20``
    """
    nets: str | dict[str, float] | dict[str, Callable[..., Any]] | Callable[..., Any] = "cnn"
    """The clients' net: a name, or shares of the clients by name. A net of your own is "my_module:net", or from Python a
    function, a class, a module (of which all get copies), or several by name in equal shares. ``nets = {cnn = 0.5, mlp = 0.5}``
    """
    server_net: str = ""
    """The net at the server, where a strategy trains one there. Empty: the first of nets. ``server_net = "resnet18"``"""
    shared_net: str = ""
    """The small net that clients pass around in fml, fedkd and fedmrl. Empty: server_net, or the first of nets.
    ``shared_net = "cnn"``
    """
    uplink: Names = ()
    """Codecs of uploads, in this order: float16, int8, bits4, top8, svd95, delta, deflate ... Empty: the strategy's own,
    usually none. ``uplink = ["int8", "deflate"]``
    """
    downlink: Names = ()
    """Codecs of broadcasts, in this order. Empty: the strategy's own, usually none. ``downlink = ["float16"]``"""
    timeout: float = Field(3600.0, gt=0)
    """Seconds that a client may take over one exchange. Whoever takes longer is late. ``timeout = 60.0``"""
    enough: float = Field(1.0, gt=0, le=1)
    """Share of those asked whose replies end the wait of an exchange; the others are late. ``enough = 0.8``"""
    late_rounds: int = Field(0, ge=0)
    """A late upload still counts up to this many rounds later; 0 drops it. ``late_rounds = 1``"""
    train: Training = Training()
    data: Data = Data()
    evaluation: Evaluation = Evaluation()
    net_options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Keyword arguments of nets, by the net's name. ``net_options = {cnn = {channels = [16, 32]}}``"""
    clock: Clock = Clock()
    asynchrony: Asynchrony = Asynchrony()
    stop: Stopping = Stopping()
    faults: Faults = Faults()
    attack: Attacking = Attacking()
    privacy: Privacy = Privacy()
    guard: Guarding = Guarding()
    record: Record = Record()
    engine: Engine = Engine()

    @field_validator("nets", mode="before")
    @classmethod
    def _split_nets(cls, given: object) -> object:
        return read_nets(given)

    @field_validator("net_options")
    @classmethod
    def _name_options(cls, given: dict[str, dict[str, Any]], info: ValidationInfo) -> dict[str, dict[str, Any]]:
        """Options of functions that are given by name go by the names that these have in a config."""
        nets = info.data.get("nets")
        of_functions = nets if isinstance(nets, dict) and any(map(callable, nets.values())) else {}
        return {given_name(name) if name in of_functions else name: options for name, options in given.items()}

    @model_validator(mode="after")
    def _check_precision(self) -> Self:
        if self.train.precision == "fp16" and not self.engine.num_gpus:
            raise InputError('train.precision: fp16 needs a GPU: set engine.num_gpus above 0, or take "bf16"')
        return self

    @property
    def architectures(self) -> tuple[str, ...]:
        """The names of the clients' nets, in the order given."""
        if isinstance(self.nets, dict):
            return tuple(shares_of(self.nets))
        return (self.nets if isinstance(self.nets, str) else FUNCTION,)

    def architecture_of(self, client: int) -> str:
        """The net of one client: the shares in whole clients, dealt out by a seeded draw."""
        return deal(self.architectures, self._shares, self.data.clients, self.seed)[client]

    @property
    def _shares(self) -> tuple[float, ...]:
        return tuple(shares_of(self.nets).values()) if isinstance(self.nets, dict) else (1.0,)

    def lr(self, round: int) -> float:
        """The learning rate of a round."""
        return self.train.lr_at(round, self.rounds)

    def evaluates(self, round: int) -> bool:
        """Whether a round is evaluated: every so many, and the last."""
        return round % self.evaluate_every == 0 or round == self.rounds

    @property
    def split_seed(self) -> int:
        """The seed of who holds what."""
        return self.seed if self.data.split_seed < 0 else self.data.split_seed

    def federation(self) -> Federation:
        """Who holds which samples. Loaded once a process, and again where the files have changed.

        Where each client has its own data, as the server of a simulation sees it, that has all of them here.
        """
        if self.data.partition == EACH_ITS_OWN:
            from fedkd.experiment.algorithm.own_data import simulated

            return simulated(self.data, self.split_seed)
        return federation_of(self.data, self.split_seed)

    @property
    def clients_are_here(self) -> bool:
        """Whether the data of all clients are here, so that who holds what is known before nodes join."""
        from fedkd.experiment.algorithm.own_sources import has_clients

        return self.data.partition != EACH_ITS_OWN or has_clients(self.data)

    @cached_property
    def run_federation(self) -> Federation:
        """The same as it was when first asked for: what changes on a disk while a run goes on is not for this run."""
        return self.federation()

    def held_by(self, federation: Federation) -> Self:
        """The same settings at a node that sees this federation as the run's: where each client has its own data."""
        settings = self.model_copy()
        vars(settings)["run_federation"] = federation
        return settings

    @cached_property
    def at_clients(self) -> dict[int, Self]:
        """Where each client has its own data: the settings at the clients of this process, so that none is loaded twice."""
        return {}
