"""Checks of what a user wrote about a net: names and sizes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from fedkd.base.errors import InputError, did_you_mean


def net_options(net: str, factory: Callable[..., Any], options: Mapping[str, Any], *, given: int) -> dict[str, Any]:
    """The options to call a factory with: lists, as TOML has them, become tuples; unknown names are an InputError.

    ``given`` is how many of the factory's first parameters are no options: the shape of the images, the classes.
    """
    parameters = list(inspect.signature(factory).parameters.values())[given:]
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        known = [parameter.name for parameter in parameters]
        for name in options:
            if name not in known:
                raise InputError(f"net {net!r} has no option {name!r}: {did_you_mean(name, known)}")
    lists = {parameter.name for parameter in parameters if isinstance(parameter.default, tuple)}
    # Where a config is flat text, as a run-config is, a list without elements is an empty text.
    values = {name: () if value == "" and name in lists else value for name, value in options.items()}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def check_sizes(net: str, option: str, *sizes: Any, least: int = 1) -> None:
    """InputError unless all of an option's sizes are integers of at least ``least``."""
    for size in sizes:
        if type(size) is not int or size < least:
            raise InputError(f"net {net!r}: {option} must be an integer of at least {least}, not {size!r}")


def check_tuple(net: str, option: str, sizes: Any) -> None:
    """InputError unless an option is a tuple of integers of at least 1."""
    if not isinstance(sizes, tuple):
        raise InputError(f"net {net!r}: {option} must be a list of integers, not {sizes!r}")
    check_sizes(net, f"each of {option}", *sizes)
