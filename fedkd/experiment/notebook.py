"""How a notebook shows an Experiment: what is set in it first, all other keys when one asks for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from fedkd.base.config_text import flatten
from fedkd.base.html_pieces import block, folded, heading, table
from fedkd.experiment.algorithm.algorithm import Algorithm
from fedkd.experiment.algorithm.settings import Settings
from fedkd.experiment.explain import shown


def experiment_html(tables: Mapping[str, Any], strategy: Algorithm) -> str:
    """The tables of an experiment, ``Experiment.to_tables``, and its strategy."""
    values, usual = flatten(tables), flatten(_defaults(strategy))
    chosen = {key: value for key, value in values.items() if key != "strategy.name" and value != usual.get(key)}
    rest = {key: value for key, value in values.items() if key not in chosen and key != "strategy.name"}
    more = f"{tables['rounds']} rounds, {tables['data']['clients']} clients, seed {tables['seed']}; {strategy.paper}"
    parts = [heading(str(tables["strategy"]["name"]), more)]
    parts += [table([], [[key, _text(value)] for key, value in chosen.items()])] if chosen else []
    return block(*parts, folded(f"{len(rest)} keys as they are by default", [f"{k} = {_text(v)}" for k, v in rest.items()]))


def _defaults(strategy: Algorithm) -> dict[str, Any]:
    """What the keys are where nobody sets them, as far as they have a default."""
    settings = Settings()
    values = {name: getattr(settings, name) for name in Settings.model_fields}
    tables = {name: value.model_dump() if isinstance(value, BaseModel) else value for name, value in values.items()}
    fields = {field.name: field.default for field in dataclasses.fields(strategy) if field.default is not dataclasses.MISSING}
    return {**tables, "strategy": fields}


def _text(value: object) -> str:
    return value if isinstance(value, str) and len(value) <= 80 else shown(value)
