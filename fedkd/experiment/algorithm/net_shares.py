"""Nets by shares of the clients: ``{cnn = 0.5, mlp = 0.5}``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import torch

from fedkd.base.config_text import parse_value
from fedkd.base.errors import InputError
from fedkd.base.randomness import generator

#: What stands in a config for a function given from Python; the app that was built with the function puts it back.
FUNCTION = "<function>"


def given_name(name: str) -> str:
    """What stands in a config for one of several functions given from Python by name.

    >>> given_name("function") == FUNCTION
    True
    """
    return name if is_given(name) else f"<{name}>"


def is_given(name: str) -> bool:
    """Whether a net's name stands for a function that was given from Python."""
    return name.startswith("<")


def shares_of(nets: Mapping[str, object]) -> dict[str, float]:
    """The share of each net by its name in a config: equal ones where functions are given by name."""
    if any(callable(value) for value in nets.values()):
        return {given_name(name): 1 / len(nets) for name in nets}
    return {name: float(str(share)) for name, share in nets.items()}


def as_text(shares: Mapping[str, float]) -> str:
    """Shares as a run-config has them.

    >>> as_text({"cnn": 0.25, "mlp": 0.75})
    'cnn:0.25,mlp:0.75'
    """
    return ",".join(f"{name}:{share!r}" for name, share in shares.items())


def read_nets(given: object) -> object:
    """The value of ``nets``, with shares as a dict also where they came as text: ``"cnn:0.5,mlp:0.5"``.

    Raises:
        InputError: the shares are no numbers above 0, or do not sum to 1.
    """
    if isinstance(given, str) and given.startswith("{"):
        raise InputError(f"nets: {given} cannot be read: write a table as TOML has it, {{cnn = 0.5, mlp = 0.5}}")
    if isinstance(given, str) and ("," in given or given.rpartition(":")[2].replace(".", "", 1).isdigit()):
        given = {name: parse_value(share) for name, _, share in (pair.rpartition(":") for pair in given.split(","))}
    if not isinstance(given, Mapping):
        return given
    if given and all(isinstance(name, str) and callable(function) for name, function in given.items()):
        return dict(given)
    for name, share in given.items():
        if callable(name) or callable(share):
            raise InputError(
                'nets: shares are numbers by name, such as {"cnn": 0.5, "my_module:net": 0.5}; functions are given alone, or '
                'all by name, in equal shares: {"a": first, "b": second}'
            )
        if type(share) not in (int, float) or not 0 < share <= 1:
            raise InputError(f"nets: the share of {name!r} is {share!r}: give each net a share above 0, in sum 1")
    if abs(sum(given.values()) - 1) > 1e-6:
        raise InputError(f"nets: the shares sum to {sum(given.values()):g}: make them sum to 1")
    return dict(given)


@lru_cache(maxsize=4)
def deal(names: tuple[str, ...], shares: tuple[float, ...], clients: int, seed: int, purpose: str = "nets") -> tuple[str, ...]:
    """The net of each client: the shares in whole clients, the largest remainders first, dealt out by a seeded draw.

    Of what else clients have by shares (their devices, say) the ``purpose`` is another, and so is the draw.
    """
    exact = [share * clients for share in shares]
    counts = [int(count + 1e-9) for count in exact]
    by_remainder = sorted(range(len(names)), key=lambda i: counts[i] - exact[i])
    for i in by_remainder[: clients - sum(counts)]:
        counts[i] += 1
    hands = [name for name, count in zip(names, counts, strict=True) for _ in range(count)]
    return tuple(hands[i] for i in torch.randperm(clients, generator=generator(seed, purpose)).tolist())
