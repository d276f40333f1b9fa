"""The architectures that fedkd brings, and how a name becomes one."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from fedkd.base.errors import InputError, did_you_mean
from fedkd.base.user_code import import_object
from fedkd.nets.cnn import CNN
from fedkd.nets.encoder import Encoder
from fedkd.nets.mlp import MLP
from fedkd.nets.resnet18 import ResNet18

ZOO: dict[str, Callable[..., Encoder]] = {"mlp": MLP, "cnn": CNN, "resnet18": ResNet18}
"""Name -> factory((C, H, W), **options) of an encoder."""


def find_user_net(name: str) -> Any:
    """What "my_module:net" names, or what a package registered under this name in entry point group "fedkd.nets"."""
    if ":" in name:
        return import_object(name)
    installed = _installed()
    if name not in installed:
        raise InputError(f'net {name!r} is unknown: {did_you_mean(name, [*ZOO, *installed])}; or "my_module:net"')
    return installed[name].load()


@cache
def _installed() -> dict[str, EntryPoint]:
    """Installed packages do not change while a process runs, and reading their metadata takes milliseconds."""
    return {entry.name: entry for entry in entry_points(group="fedkd.nets")}
