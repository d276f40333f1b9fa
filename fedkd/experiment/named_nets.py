"""The nets that an experiment names: which key names which, whether each is there and takes its options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedkd.base.errors import under
from fedkd.base.user_code import import_object
from fedkd.experiment.algorithm.net_shares import FUNCTION, given_name, is_given
from fedkd.experiment.algorithm.settings import Settings
from fedkd.nets import as_function, check_function, check_net, name_of


def check_named_nets(experiment: Settings) -> None:
    """Raise InputError, naming the key, for an unknown net, a function of other parameters, or options that a net lacks."""
    options = experiment.net_options
    for name, key in {**nets_of(experiment), **{name: f"net_options.{name}" for name in options}}.items():
        if not is_given(name) and ":" not in name:  # code is imported when the run starts
            with under(key):
                check_net(name, options.get(name, {}))
    for name, function in given_functions(experiment).items():
        with under("nets"):
            check_function(name_of(function), function, options.get(name, {}))


def functions_of_nets(experiment: Settings) -> dict[str, Callable[..., Any]]:
    """The functions behind the names that lead to code, checked, and the one that was given from Python."""
    functions = {name: as_function(function) for name, function in given_functions(experiment).items()}
    for name, key in nets_of(experiment).items():
        if ":" in name:
            with under(key):
                functions[name] = as_function(import_object(name))
                check_function(name, functions[name], experiment.net_options.get(name, {}))
    return functions


def given_functions(experiment: Settings) -> dict[str, Callable[..., Any]]:
    """The functions, classes and modules that were given from Python, by their names in a config."""
    if isinstance(experiment.nets, dict):
        return {given_name(name): function for name, function in experiment.nets.items() if callable(function)}
    return {FUNCTION: experiment.nets} if callable(experiment.nets) else {}


def nets_of(experiment: Settings) -> dict[str, str]:
    """The nets that an experiment names, each with the key that does so first."""
    of_clients = dict.fromkeys(experiment.architectures, "nets")
    keys = {experiment.shared_net: "shared_net", experiment.server_net: "server_net", **of_clients}
    return {name: key for name, key in keys.items() if name}
