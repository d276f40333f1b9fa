"""Node: what the client half and the server half of an algorithm have in common: nets, optimisers, random streams, memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, TypeVar, cast

import torch
from torch import nn

from fedkd.base.errors import InputError
from fedkd.base.randomness import derive, generator, seeded
from fedkd.data import Federation, Samples
from fedkd.experiment.algorithm.counted_work import uncounted
from fedkd.experiment.algorithm.functions import Functions
from fedkd.experiment.algorithm.net_supply import NOTHING, Found, NetPlan, find_out, fresh, give_back, take
from fedkd.experiment.algorithm.optimizer_state import optimizer_state, restore_optimizer
from fedkd.experiment.algorithm.settings import Settings
from fedkd.experiment.algorithm.step import make_optimizer
from fedkd.experiment.algorithm.train import Split
from fedkd.experiment.algorithm.work import Work
from fedkd.knowledge.knowledge import DTYPES
from fedkd.knowledge.memory import Memory
from fedkd.nets import Net, load, unsaved_buffers

M = TypeVar("M", bound=nn.Module)
T = TypeVar("T")


class Node(ABC):
    """One place where work is done, for one call: a client in one exchange, or the server in a run."""

    def __init__(
        self, experiment: Settings, functions: Functions, federation: Federation, memory: Memory, device: torch.device
    ) -> None:
        self.experiment = experiment
        self.memory = memory
        self.device = device
        self.round = 0
        self.exchange = 0
        self.federation = federation
        #: The ids of the public samples that were asked for last: those that this node's tables speak of, row by row.
        self.public_ids: torch.Tensor | None = None
        self._functions = functions
        self._nets: dict[str, tuple[NetPlan, Net, bool]] = {}
        self._modules: dict[str, tuple[nn.Module, bool]] = {}
        self._live: dict[tuple[int, str], Any] = {}  # by round and key
        self._optimizers: dict[str, tuple[nn.Module, torch.optim.Optimizer]] = {}

    @property
    @abstractmethod
    def name(self) -> str:
        """Who this is, in words, for messages and random streams."""

    @property
    @abstractmethod
    def architecture(self) -> str:
        """The name of this node's main net."""

    @property
    def classes(self) -> int:
        """The number of classes, C."""
        return len(self.federation.source.classes)

    @property
    def user_nets(self) -> Mapping[str, Callable[..., nn.Module]]:
        """The user's own nets, by the names that ``nets`` gives them."""
        return self._functions.nets

    def rng(self, purpose: str) -> torch.Generator:
        """A fresh generator, a function of (seed, round, exchange, this node, purpose)."""
        return generator(self.experiment.seed, self.round, self.exchange, self.name, purpose)

    def lasting_rng(self, purpose: str) -> torch.Generator:
        """A fresh generator, a function of (seed, this node, purpose) and of no round: for what is drawn once."""
        return generator(self.experiment.seed, self.name, purpose)

    def net(
        self,
        name: str = "main",
        *,
        architecture: str | None = None,
        init: Literal["own", "shared"] = "shared",
        heads: tuple[str, ...] = ("classifier",),
        weights: Mapping[str, torch.Tensor] | None = None,
        keep: bool = False,
    ) -> Net:
        """A net, built or as last kept under ``name``, or with weights that are given.

        Args:
            name: nets of one node are told apart by it.
            architecture: a name of the zoo; default, this node's own.
            init: initial weights equal at all nodes (``shared``) or drawn for this node alone (``own``).
            heads: the heads it carries, names of ``fedkd.nets.HEADS``.
            weights: its state dict, as a broadcast's ``tensors`` are. Default: what was kept, or else initial weights.
            keep: whether its weights go to memory when the call ends. What is not kept is gone.
        """
        if name in self._nets:
            if weights is not None:
                load(self._nets[name][1], weights)
            return self._nets[name][1]
        plan, owner = self._plan(architecture, heads), () if init == "shared" else (self.name, name)
        # The seed is not of the heads: methods with other heads on the same encoder start from the same encoder.
        seed = derive(self.experiment.seed, "init", plan.architecture, *owner)
        held = self.memory.under(f"net/{name}/") or None if weights is None else weights
        net = take(plan, seed, held, self._found(plan), common=not owner)
        self._restore_beside(f"net/{name}", net)
        self._nets[name] = (plan, net, keep)
        return net

    def module(self, name: str, build: Callable[[], M], *, init: Literal["own", "shared"] = "shared", keep: bool = False) -> M:
        """A module that is no net of the zoo (attention, a gate, a net with branches), built or as last kept under ``name``.

        Args:
            name: modules of one node are told apart by it.
            build: makes it; its initial weights come from torch's global generator, which is seeded for it here.
            init: initial weights equal at all nodes (``shared``) or drawn for this node alone (``own``).
            keep: whether its weights go to memory when the call ends. What is not kept is gone.
        """
        if name not in self._modules:
            owner = (self.name,) if init == "own" else ()
            with seeded(derive(self.experiment.seed, "init", "module", name, *owner)):
                module = build().to(self.device)
            if kept := self.memory.under(f"module/{name}/"):
                load(module, kept)
                self._restore_beside(f"module/{name}", module)
            self._modules[name] = (module, keep)
        return cast(M, self._modules[name][0])

    def fresh_net(self, *, architecture: str | None = None, heads: tuple[str, ...] = ("classifier",)) -> Net:
        """A net with weights drawn from torch's global generator, as ``build`` of a ``module`` may need for its parts."""
        plan = self._plan(architecture, heads)
        return fresh(plan, self._found(plan))

    def optimizer(self, name: str, net: nn.Module, **overrides: Any) -> torch.optim.Optimizer:
        """An optimiser that keeps its state in memory under ``name``; ``overrides`` replace the [train] settings."""
        if name not in self._optimizers:
            optimizer = make_optimizer(net, self.work(), **overrides)
            restore_optimizer(optimizer, self.memory.under(f"optimizer/{name}/"))
            self._optimizers[name] = (net, optimizer)
        optimizer = self._optimizers[name][1]
        for group in optimizer.param_groups:
            group["lr"] = overrides.get("lr", self.work().lr)
        return optimizer

    def work(self) -> Work:
        """How training is done here and now: the same in all exchanges of a round."""
        return self.live("how to train", self._work)

    def _work(self) -> Work:
        experiment, where = self.experiment, f"{self.name}, round {self.round}"
        return Work(experiment.train, experiment.lr(max(1, self.round)), self.device, experiment.data.views, where)

    @property
    def public(self) -> Split:
        """The public set, the same at all nodes. ``public_subset`` gives this round's part of it, in an order all share."""
        if self.federation.public is None:
            raise InputError("data.public: this needs a public set: set data.public to its size")
        return self.split(self.federation.public)

    def public_subset(self, size: int = 0, *, round: int | None = None) -> Split:
        """The public samples that all nodes speak of in a round, in the same order at all: no indices travel.

        Args:
            size: how many, a new draw each round; 0 = all.
            round: whose draw; default, this round's. Round 0's is that of a method with one subset for the whole run.
        """
        samples = self.public.samples
        ids = self.federation.public_order(self.experiment.seed, self.round if round is None else round)
        self.public_ids = ids[: size or None]
        return self.split(replace(samples, indices=self.public_ids))

    @property
    def validation(self) -> Split:
        """The labelled validation set that is held out for the server."""
        if self.federation.validation is None:
            raise InputError("data.validation: this needs a validation set: set data.validation to its size")
        return self.split(self.federation.validation)

    def split(self, samples: Samples) -> Split:
        """Samples bound to this node's settings, device and random streams."""
        return Split(samples, self.work(), self.rng)

    def live(self, key: str, compute: Callable[[], T]) -> T:
        """A value that may be kept between the exchanges of one round, computed where it is not at hand.

        A grid may forget it at any time, so ``compute`` must give the same value from memory and random streams alone; the
        virtual clock does not count its operations.
        """
        if (self.round, key) not in self._live:
            with uncounted():
                self.set_live(key, compute())
        return cast(T, self._live[self.round, key])

    def set_live(self, key: str, value: object) -> None:
        """Replace a live value, for the next exchange's ``live``; those of other rounds are gone."""
        self._live = {held: kept for held, kept in self._live.items() if held[0] == self.round} | {(self.round, key): value}

    def flush(self) -> None:
        """Write what is to be kept to memory."""
        for name, (_, net, keep) in self._nets.items():
            if keep:
                self._keep(f"net/{name}", net)
        for name, (module, keep) in self._modules.items():
            if keep:
                self._keep(f"module/{name}", module)
        for name, (_, optimizer) in self._optimizers.items():
            self.memory.store(f"optimizer/{name}/", optimizer_state(optimizer))

    def release(self, *, kept: bool = True) -> None:
        """Give all nets back; with ``kept=False`` only the passing ones."""
        for name, (plan, net, keep) in list(self._nets.items()):
            if kept or not keep:
                del self._nets[name]
                give_back(plan, net)
        self._modules = {} if kept else {name: held for name, held in self._modules.items() if held[1]}
        if kept:
            self._optimizers.clear()
            self._live.clear()

    def _keep(self, where: str, module: nn.Module) -> None:
        """A module whole, with the buffers that it does not save: it goes on as if it had never been away."""
        self.memory.store(f"{where}/", module.state_dict())
        # A buffer of a type that no record holds, such as complex, is a table of constants.
        beside = {name: buffer for name, buffer in unsaved_buffers(module).items() if buffer.dtype in DTYPES.values()}
        self.memory.store(f"beside/{where}/", beside)

    def _restore_beside(self, where: str, module: nn.Module) -> None:
        for name, buffer in self.memory.under(f"beside/{where}/").items():
            module.get_buffer(name).copy_(buffer)

    def _found(self, plan: NetPlan) -> Found:
        """What is known of a user's net; nothing is asked of one of the zoo."""
        if plan.is_of_zoo:
            return NOTHING
        if plan not in self._functions.found:
            seed = derive(self.experiment.seed, "init", plan.architecture)
            self._functions.found[plan] = find_out(plan, seed)
        found: Found = self._functions.found[plan]
        return found

    def _plan(self, architecture: str | None, heads: tuple[str, ...]) -> NetPlan:
        name = architecture or self.architecture
        factory: str | Callable[..., nn.Module] = self.user_nets.get(name, name)
        options = self.experiment.net_options.get(name, {})
        source = self.federation.source
        return NetPlan(name, heads, factory, options, source.shape, self.classes, str(self.device), source.vocabulary)
