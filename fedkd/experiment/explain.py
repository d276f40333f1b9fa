"""What is wrong with a value that an experiment was given, in one line: the dotted key, what is wrong, the cure."""

from __future__ import annotations

import inspect
from collections.abc import Collection

from pydantic import ValidationError

from fedkd.base.errors import InputError, did_you_mean
from fedkd.experiment.algorithm.sections import SECTIONS

#: Key -> what to give, where "input should be ..." would not tell.
WANTED = {
    "strategy": 'give its name, a table {"name": "fedprox", "mu": 0.1}, or an instance',
    "participation": 'give a share of the clients, above 0 and up to 1, or "async"',
    "nets": 'give one name, shares of the clients {"cnn": 0.5, "mlp": 0.5}, or a function (shape, classes) -> net',
    "server_net": 'give the name of a net, or "my_module:net" for one of your own',
    "shared_net": 'give the name of a net, or "my_module:net" for one of your own',
    "net_options": 'give a table of options for each net, {"cnn": {"hidden": 64}}',
    "data.source": "give a name, a path, or a function without arguments that returns a Source",
    "uplink": 'give the names of codecs, ["float16", "deflate"]',
    "downlink": 'give the names of codecs, ["float16", "deflate"]',
}


def explained(error: ValidationError, own: Collection[str]) -> str:
    """The first of pydantic's findings; ``own`` are the experiment's keys."""
    finding = error.errors(include_url=False)[0]
    key = ".".join(
        str(part)
        for part in finding["loc"]
        if not str(part).startswith(("function-", "dict[", "callable", "constrained-", "literal["))
    )
    if isinstance(inner := finding.get("ctx", {}).get("error"), InputError):
        return str(inner)
    if finding["type"] == "extra_forbidden":
        *section, name = key.split(".")
        return f"unknown key {key!r}: {did_you_mean(name, SECTIONS[section[0]].model_fields if section else own)}"
    given, key = finding["input"], key.removesuffix(".str")
    if inspect.isclass(given) and key == "strategy":
        return f"strategy: {given.__name__} is a class: give an instance, {given.__name__}()"
    for place, wanted in WANTED.items():
        if key == place or key.startswith(f"{place}."):
            return f"{key}: {wanted}; got {shown(given)}"
    if key in SECTIONS:
        first = next(iter(SECTIONS[key].model_fields))
        return f'{key}: give a table of its keys, {{"{first}": ...}}; got {shown(given)}'
    text = finding["msg"].removeprefix("Value error, ")
    return f"{key}: {text[0].lower()}{text[1:]}, got {shown(given)}"


def shown(value: object) -> str:
    """A value in one line, shortened where it is long.

    >>> shown(3), shown([1] * 100)
    ('3', '[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, ... (a list)')
    """
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:57]} ... (a {type(value).__name__})"
