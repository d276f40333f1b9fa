"""A trial: small runs of one strategy, each made once, however many checks look at it."""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Mapping
from functools import cached_property
from typing import Any, final

from fedkd.base.errors import InputError, Notice
from fedkd.engine.simulation import simulate
from fedkd.engine.strategy import Strategy
from fedkd.experiment.experiment import Experiment
from fedkd.grids import InProcessGrid
from fedkd.results.history import OF_ENGINE, TIMES, History
from fedkd.testing.kinds_of_samples import LITTLE
from fedkd.testing.users_net import Decided
from fedkd.testing.watch import Watch, watching

NETS = {"mlp": {"hidden": [16]}, "cnn": {"channels": [4, 8], "hidden": 16}}


@final
class Trial:
    """One strategy, and the runs that its checks look at.

    Args:
        strategy: a class, whose fields keep their defaults, or an instance.
        changes: keys of the experiment in place of the small one's, as ``nets="resnet18"``; ``data`` is merged by key.
    """

    def __init__(self, strategy: type[Strategy] | Strategy, changes: Mapping[str, Any]) -> None:
        made = strategy() if inspect.isclass(strategy) else strategy
        if not isinstance(made, Strategy):
            raise InputError(f"check_strategy takes a Strategy, its class or an instance of it; got {strategy!r}")
        self.strategy = made
        self.cls = type(made)
        self._changes = dict(changes)

    def experiment(self, *, partition: str = "dirichlet", probe_epochs: int = 10, **changes: Any) -> Experiment:
        """A run of a second: 4 clients, 160 digits, two rounds, and whatever the strategy needs.

        Encoders are probed briefly, before and after, at the server and at two clients: probes take longer than training does.
        """
        needs, given = self.cls.needs, {**self._changes.get("data", {}), **changes.get("data", {})}
        partition = given.get("partition", "shared" if needs.shared_data else partition)
        unequal = {"alpha": 1.0, "min_partition_size": 40} if partition == "dirichlet" else {}
        data = {"clients": 4, "train_limit": 300 if needs.validation else 260, "partition": partition, **unequal}
        data |= {"public": 40 if needs.public else 0, "validation": 40 if needs.validation else 0}
        settings: dict[str, Any] = {"rounds": 2, "nets": "cnn", "net_options": NETS, "train": {"lr": 0.05, "batch_size": 32}}
        if "views" in (needs.uses or ()) and not needs.shared_data:
            settings |= {"evaluate_every": 2, "evaluate_clients": 2}
        if {"representations", "probe_epochs"}.intersection(needs.uses or ()):
            settings |= {"evaluation": {"probe_epochs": probe_epochs}}
        if "representations" in (needs.uses or ()):
            settings["evaluation"]["label_shares"] = []
        values = {"strategy": self.strategy, **settings, **self._changes, **changes}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Notice)  # options of nets that this strategy leaves alone
            return Experiment(**{**values, "data": {**data, **given}})

    @cached_property
    def watch(self) -> Watch:
        """The usual run, and what was seen in it."""
        with watching(self.cls) as watch:
            watch.history = simulate(self.experiment(), InProcessGrid())
        return watch

    @property
    def history(self) -> History:
        """The rows of the usual run, which others are held against."""
        return self.watch.history

    @cached_property
    def watch_of_users_net(self) -> Watch:
        """The run with a net of a user's own, and what was seen in it."""
        with watching(self.cls) as watch:
            watch.history = simulate(self.of_users_net(), InProcessGrid())
        return watch

    def of_users_net(self, **changes: Any) -> Experiment:
        """The experiment with a net in which a user decided much; see ``Decided``."""
        train = {"lr": 0.05, "batch_size": 32, "momentum": 0.9, "weight_decay": 0.01}
        own = {"nets": Decided, "net_options": {}, "train": train, "evaluate_every": 2, "data": {"test_limit": 100}}
        return self.experiment(**{**own, **changes})

    def of_kind(self, name: str) -> Experiment:
        """One round on little data of another kind than images, with a net for them; see ``LITTLE``."""
        little = LITTLE[name]
        partition = "shared" if self.cls.needs.shared_data else "iid"
        data = {"source": little.source, "clients": 2, "partition": partition, "train_limit": 0}
        nets: dict[str, Any] = {
            "nets": little.net,
            "net_options": {little.net: little.options},
            "server_net": "",
            "shared_net": "",
        }
        return self.experiment(**nets, partition=partition, rounds=1, evaluate_clients=1, data=data)


def numbers(history: History) -> str:
    """All metrics but times and what an engine says of itself, as text: equal texts are equal bits."""
    apart = {*TIMES, *OF_ENGINE}
    rows = [{k: v for k, v in row.items() if k not in apart} for row in (*history.metrics, *history.clients)]
    return json.dumps(rows, sort_keys=True)


def difference(expected: History, found: History) -> str:
    """The first number in which two runs differ, in words; empty where they are equal."""
    apart = {*TIMES, *OF_ENGINE}
    for mine, other in zip((*expected.clients, *expected.metrics), (*found.clients, *found.metrics), strict=False):
        for key in (key for key in (*mine, *other) if key not in apart and repr(mine.get(key)) != repr(other.get(key))):
            who = f"client {mine['client']}, " if "client" in mine else ""
            return f"{key} of {who}round {mine['round']} is {other.get(key)}, not {mine.get(key)}"
    return "" if numbers(expected) == numbers(found) else "more rows in one than in the other"


def said(experiment: Experiment) -> str:
    """What an experiment is, for messages."""
    nets = experiment.nets if isinstance(experiment.nets, str) else getattr(experiment.nets, "__name__", "nets as given")
    data = experiment.data
    return f"{experiment.rounds} rounds, {data.clients} clients, {data.source}, net {nets}, seed {experiment.seed}"
