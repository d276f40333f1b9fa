"""The architectures that fedkd brings, and how a name becomes one."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from fedkd.base.errors import InputError, did_you_mean
from fedkd.base.inputs import Shape, describe
from fedkd.base.user_code import import_object
from fedkd.nets.cnn import CNN
from fedkd.nets.cnn1d import CNN1d
from fedkd.nets.encoder import Encoder
from fedkd.nets.mlp import MLP
from fedkd.nets.options import net_options
from fedkd.nets.resnet18 import ResNet18
from fedkd.nets.transformer import Transformer

ZOO: dict[str, type[Encoder]] = {
    "mlp": MLP,
    "cnn": CNN,
    "cnn1d": CNN1d,
    "resnet18": ResNet18,
    "transformer": Transformer,
}
"""Name -> factory(shape of a sample, **options) of an encoder."""


def zoo_encoder(name: str, options: Mapping[str, Any], *, shape: Shape | None = None, vocabulary: int = 0) -> Encoder:
    """A net of the zoo without heads.

    Args:
        name: in ``ZOO``.
        options: its own, such as width; lists become tuples.
        shape: of a sample; None: of one that it is sure to take.
        vocabulary: how many token ids there are, for a net that takes tokens.

    Raises:
        InputError: unknown or bad options, or samples that it does not take.
    """
    factory = ZOO[name]
    known = net_options(name, factory, options, given=1)
    if shape is None:
        shape, vocabulary = factory.example_shape, factory.example_vocabulary
    if not factory.takes(shape, vocabulary):
        found = f"{'tokens ' if vocabulary else ''}{describe(shape)}"
        others = [other for other, brought in ZOO.items() if brought.takes(shape, vocabulary)]
        cure = f"take {' or '.join(others)}, or a net of your own" if others else "take a net of your own"
        raise InputError(f"net {name!r} takes {factory.samples}, and these samples are {found}: {cure}")
    if vocabulary and "vocabulary" in inspect.signature(factory).parameters:
        known = {"vocabulary": vocabulary} | known
    return factory(shape, **known)


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
