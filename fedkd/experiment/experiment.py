"""Experiment: one frozen, validated value that says everything about a run. From Python, from TOML, to and from flat config."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ValidationError, field_validator, model_validator

from fedkd.base.config_text import flatten, located, parse_value, read_toml, to_toml, unflatten
from fedkd.base.errors import InputError
from fedkd.base.user_code import import_object, path_of
from fedkd.data.partition import EACH_ITS_OWN
from fedkd.experiment import registry
from fedkd.experiment.algorithm.algorithm import Algorithm
from fedkd.experiment.algorithm.functions import Functions, named_code
from fedkd.experiment.algorithm.net_shares import FUNCTION, as_text, shares_of
from fedkd.experiment.algorithm.settings import Settings
from fedkd.experiment.explain import explained, shown
from fedkd.experiment.misplaced import refuse_misplaced
from fedkd.experiment.run_config import APP_KEYS, tables_of, tables_of_file
from fedkd.experiment.strategy_of_round import strategy_of
from fedkd.experiment.unused import forget_but, given_keys, is_complete, tell
from fedkd.experiment.values import ExperimentValues

_NO_FUNCTIONS = Functions()


class Experiment(ExperimentValues):
    """A whole run in one frozen value: the settings, and the strategy. Its keys are those of the experiment file.

    >>> Experiment(strategy="fedavg", rounds=3).data.clients
    10

    Raises:
        InputError: one line that names the key, what is wrong and the cure.
    """

    def __init__(self, *wrong: object, **values: Any) -> None:
        if wrong:
            raise InputError(
                f"Experiment takes keys, as rounds=3; to read a file, Experiment.from_toml(...); got {shown(wrong[0])}"
            )
        refuse_misplaced(values, own=type(self).model_fields)
        self._fill(values)
        self._tell(given_keys(self, values.get("strategy")))

    @classmethod
    def from_values(cls, values: Mapping[str, Any], *, meant: Collection[str] = ()) -> Self:
        """An experiment from values. ``meant``: the keys that a user chose; only of these it is said if they do nothing."""
        experiment = cls.__new__(cls)
        experiment._fill(values)
        forget_but(experiment, meant)
        return experiment

    def _tell(self, given: Collection[str]) -> None:
        from fedkd.experiment.unused_keys import unused_keys  # what it knows of draws and losses rests on experiments

        tell(self, given, unused_keys(self))

    def _fill(self, values: Mapping[str, Any]) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InputError(explained(error, own=type(self).model_fields)) from None

    @field_validator("strategy", mode="before")
    @classmethod
    def _build_strategy(cls, given: object) -> object:
        if isinstance(given, str):
            given = {"name": given}
        if isinstance(given, Algorithm):  # a dataclass checks nothing by itself
            given = registry.build_class(type(given), vars(given))
        return registry.build(given) if isinstance(given, Mapping) else given

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        from fedkd.experiment.algorithm.upload_schemas import schemas_before_data
        from fedkd.experiment.lasting import check_lasting
        from fedkd.experiment.named_nets import check_named_nets
        from fedkd.experiment.protection import check_protected
        from fedkd.knowledge.codecs import chain

        strategy_of(self, self.rounds)
        for key, names in (("uplink", self.strategy.uplink(self)), ("downlink", self.strategy.downlink(self))):
            chain(names, key)
        check_named_nets(self)
        self.strategy.check(self)
        if self.privacy.noise_multiplier and self.data.partition == EACH_ITS_OWN and self.data.normalise == "global":
            raise InputError(
                'data.normalise = "global": with data.partition = "own" each client would tell the mean of its samples, for '
                'which [privacy] has no noise: set data.normalise = "client" or "none"'
            )
        if self.privacy.noise_multiplier and (schemas := schemas_before_data(self.strategy, self)):
            check_protected(type(self.strategy).__name__, schemas, partition=self.data.partition)
        check_lasting(self)
        return self

    def replace(self, **changes: Any) -> Experiment:
        """A changed copy, validated again: ``experiment.replace(seed=1)``."""
        refuse_misplaced(changes, own=type(self).model_fields)
        values = {name: getattr(self, name) for name in type(self).model_fields} | changes
        # With another strategy, as for a baseline, the other keys belong to the experiment that it is held against.
        changed = Experiment.from_values(values, meant=changes if "strategy" in changes else {*self.model_fields_set, *changes})
        changed._tell({key for key in given_keys(changed, changes.get("strategy")) if key.partition(".")[0] in changes})
        return changed

    @classmethod
    def from_toml(cls, path: str | Path, overrides: Mapping[str, str] | None = None) -> Experiment:
        """Read an experiment file, or the experiment of a Flower app in its pyproject.toml.

        ``overrides`` are dotted keys with values as typed: ``{"data.alpha": "0.1"}``.
        """
        text, tables = read_toml(path)
        flat = {key: parse_value(value) if isinstance(value, str) else value for key, value in (overrides or {}).items()}
        with located(Path(path).name, text, besides=flat):
            tables = tables_of_file(tables)
            values = unflatten(flat, into=tables)
            if not is_complete(tables) and flat.keys().isdisjoint(("strategy", "strategy.name")):
                return cls(**values)
            # Of a run's own file nobody set the keys; with another strategy, the file's belong to what it is held against.
            refuse_misplaced(values, own=cls.model_fields)
            experiment = cls.from_values(values, meant=flat.keys())
            experiment._tell(flat.keys())
            return experiment

    def to_tables(self) -> dict[str, Any]:
        """Nested plain tables, as the experiment file has them; functions become ``"my_module:name"`` or ``"<function>"``."""
        tables: dict[str, Any] = {"strategy": registry.describe(self.strategy)}
        for name in Settings.model_fields:
            value = getattr(self, name)
            tables[name] = value.model_dump() if isinstance(value, BaseModel) else value
        named = shares_of(self.nets) if isinstance(self.nets, dict) else self.nets
        tables["nets"] = FUNCTION if callable(named) else named
        if callable(self.data.source):
            tables["data"]["source"] = path_of(self.data.source) or FUNCTION
        return tables

    def to_toml(self) -> str:
        """The whole experiment as TOML text; reading it back gives an equal experiment."""
        return to_toml(self.to_tables())

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from fedkd.experiment.notebook import experiment_html

        return experiment_html(self.to_tables(), self.strategy)

    def to_flat(self) -> dict[str, bool | int | float | str]:
        """Flower's run-config: the same keys, dotted; lists as comma strings."""
        tables = self.to_tables()
        if isinstance(self.nets, dict):
            tables["nets"] = as_text(tables["nets"])
        tables["clock"]["devices"] = as_text(tables["clock"]["devices"])
        return flatten(tables)

    def functions(self) -> Functions:
        """What of this experiment is code: functions, and names that lead to the user's own files."""
        from fedkd.experiment.named_nets import functions_of_nets
        from fedkd.losses.distillers.registry import added  # only here: that imports sixty losses

        source = self.data.source
        return Functions(
            nets=functions_of_nets(self),
            data=source if callable(source) else (import_object(source) if ":" in source else None),
            strategy=type(self.strategy) if ":" in registry.name_of(type(self.strategy)) else None,
            code={
                name: import_object(name) for name in named_code([vars(self.strategy), self.data.views, self.train.optimizer])
            },
            losses=added(),
        )

    @classmethod
    def from_flat(cls, flat: Mapping[str, bool | int | float | str], functions: Functions | None = None) -> Experiment:
        """The experiment of a Flower run-config. Equal configs give the same object within a process.

        A config names no code: where it says ``my_module:net``, the function must come in ``functions``.
        """
        global _LAST
        functions = functions or _NO_FUNCTIONS
        last = _LAST  # as another thread may replace it
        if last is None or last[0] != flat or last[1] is not functions:
            items = tuple(sorted((key, value) for key, value in flat.items() if key not in APP_KEYS))
            last = _LAST = dict(flat), functions, _from_flat(items, functions)
        return last[2]


#: The config, functions and experiment that were asked for last: all clients of a run ask for these, and sorting takes longer.
_LAST: tuple[dict[str, Any], Functions, Experiment] | None = None


@lru_cache(maxsize=8)
def _from_flat(items: tuple[tuple[str, bool | int | float | str], ...], functions: Functions) -> Experiment:
    tables = tables_of(dict(items), functions)
    with functions.given_only():
        if functions.strategy is not None:
            fields = {key: value for key, value in tables.get("strategy", {}).items() if key != "name"}
            tables["strategy"] = registry.build_class(functions.strategy, fields)
        return Experiment.from_values(tables)
