"""The text of a user's code: all that could change a result is in it, and nothing else is."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
from torch import nn

from fedkd.base.user_source import UNKNOWN, source_of

HELPER = "SLOPE = 0.5\n"
MINE = """
import functools
import helper
import torch
from torch import nn

WIDTH = 4
SEEN = []  # grows while running

class Layer(nn.Module):
    def forward(self, x):
        return inner(x)

def inner(x):
    return x * helper.SLOPE

def net(shape, classes, *, width=WIDTH):
    SEEN.append(shape)
    return nn.Sequential(Layer(), nn.Linear(width, classes))

def unrelated():
    return 1

def made(width):
    return lambda shape, classes: nn.Linear(width, classes)

first, second = (lambda shape, classes: nn.Linear(1, classes)), (lambda shape, classes: nn.Linear(2, classes))
"""


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ModuleType]]:
    """Writes and imports a user's two files, with some of their text replaced."""
    monkeypatch.syspath_prepend(tmp_path)

    def write_and_import(*changes: tuple[str, str]) -> ModuleType:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        monkeypatch.syspath_prepend(folder)
        for name, text in (("helper", HELPER), ("mine", MINE)):
            for old, new in changes:
                text = text.replace(old, new)
            (folder / f"{name}.py").write_text(text)
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return importlib.import_module("mine")

    yield write_and_import
    for name in ("mine", "helper"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("old", "new", "differs"),
    [
        ("nn.Sequential(Layer()", "nn.Sequential(Layer(), Layer()", True),  # the function itself
        ("return inner(x)", "return -inner(x)", True),  # a class that it uses
        ("x * helper", "-x * helper", True),  # a function that this class uses
        ("WIDTH = 4", "WIDTH = 5", True),  # a constant, a default
        ("SLOPE = 0.5", "SLOPE = 0.6", True),  # a module of theirs
        ("return 1", "return 2", False),
        ("# grows", "# shrinks", False),
        ("WIDTH = 4", "WIDTH   =   4  # wide", False),
    ],
)
def test_what_could_change_a_result_changes_the_text(
    old: str, new: str, differs: bool, load: Callable[..., ModuleType]
) -> None:
    before = source_of(load().net)
    assert (source_of(load((old, new)).net) != before) is differs


def test_what_happened_while_running_does_not(load: Callable[..., ModuleType]) -> None:
    net = load().net
    before = source_of(net)
    net((1, 2, 2), 3)
    assert source_of(net) == before


def test_lambdas_closures_and_partials_are_told_apart(load: Callable[..., ModuleType]) -> None:
    mine = load()
    kinds = [
        mine.first,
        mine.second,
        mine.made(3),
        mine.made(4),
        mine.net,
        partial(mine.net, width=7),
        partial(mine.net, width=8),
    ]
    assert len({source_of(kind) for kind in kinds}) == len(kinds)
    assert "nn.Linear(2, classes)" in source_of(mine.second) and "nn.Linear(1" not in source_of(mine.second)


def test_an_object_is_its_class_and_what_it_holds() -> None:
    class Scaled:
        def __init__(self, scale: float, inner: Callable[..., nn.Module]) -> None:
            self.scale, self.inner = scale, inner

        def __call__(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
            return self.inner(shape, classes)

    def small(shape: tuple[int, int, int], classes: int) -> nn.Module:
        return nn.Linear(1, classes)

    def large(shape: tuple[int, int, int], classes: int) -> nn.Module:
        return nn.Linear(9, classes)

    texts = {source_of(value) for value in (Scaled(1.0, small), Scaled(2.0, small), Scaled(1.0, large))}
    assert len(texts) == 3
    assert all("def __call__" in text for text in texts)


def test_installed_packages_and_fedkd_are_left_out(load: Callable[..., ModuleType]) -> None:
    text = source_of(load().net)
    assert "class Sequential" not in text and "class Module" not in text


def test_code_without_a_file_is_unknown() -> None:
    names: dict[str, Callable[..., int]] = {}
    exec("def typed(): return 3", names)
    assert UNKNOWN in source_of(names["typed"])
