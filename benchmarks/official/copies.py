"""What a case takes out of a copy of somebody's code: definitions, or lines of a function, run as they stand."""

from __future__ import annotations

import ast
import copy
import math
import re
import subprocess
import textwrap
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import norm
from sklearn.svm import OneClassSVM
from torch import nn
from torch.autograd import grad

from fedkd.base.errors import InputError

#: What their files import of torch and the like. What else they import (torchvision, loggers) no case needs.
IMPORTED = {
    "torch": torch,
    "nn": nn,
    "F": F,
    "np": np,
    "math": math,
    "copy": copy,
    "grad": grad,
    "defaultdict": defaultdict,
    "ssvm": OneClassSVM,
    "norm": norm,
    "eps": 1e-7,
}


@dataclass(frozen=True)
class Copy:
    """A git copy, bare or not, at its HEAD.

    Args:
        name: owner/name.
        path: where it lies.
    """

    name: str
    path: Path

    @property
    def commit(self) -> str:
        """Its commit."""
        return self._git("rev-parse", "HEAD").strip()

    def read(self, file: str) -> str:
        """The text of a file."""
        return self._git("show", f"HEAD:{file}").expandtabs(4)

    def define(self, files: str, names: str, **known: Any) -> SimpleNamespace:
        """Functions, classes and methods (``Class.method``) of these files, by name; ``known`` is what else they read."""
        space: dict[str, Any] = {**IMPORTED, **known}
        wanted = names.split()
        for file in files.split():
            for node in _definitions(ast.parse(self.read(file)), wanted):
                exec(compile(ast.Module([node], []), f"{self.name}/{file}", "exec"), space)
        if missing := [name for name in wanted if name.split(".")[-1] not in space]:
            raise InputError(f"{self.name}: no {', '.join(missing)} in {files}: the copy is of another version")
        return SimpleNamespace(**{name.split(".")[-1]: space[name.split(".")[-1]] for name in wanted})

    def lines(self, file: str, first: str, last: str) -> Callable[..., SimpleNamespace]:
        """The lines from the one that begins with ``first`` to the one that begins with ``last``, as a function of names."""
        text = self.read(file)
        begin = re.search(rf"^ *{re.escape(first)}", text, re.MULTILINE)
        end = begin and re.compile(rf"^ *{re.escape(last)}.*$", re.MULTILINE).search(text, begin.start())
        if not (begin and end):
            raise InputError(f"{self.name}: no lines from {first!r} to {last!r} in {file}: the copy is of another version")
        code = compile(textwrap.dedent(text[begin.start() : end.end()]), f"{self.name}/{file}", "exec")

        def run(**known: Any) -> SimpleNamespace:
            space: dict[str, Any] = {**IMPORTED, **known}
            exec(code, space)
            return SimpleNamespace(**space)

        return run

    def _git(self, *words: str) -> str:
        done = subprocess.run(["git", "-C", str(self.path), *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise InputError(f"{self.name}: {self.path} is no git copy that has it: {done.stderr.strip().splitlines()[-1]}")
        return done.stdout


def _definitions(module: ast.Module, names: list[str]) -> list[ast.stmt]:
    found: list[ast.stmt] = []
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            if node.name in names:
                found.append(node)
            if isinstance(node, ast.ClassDef):
                found += [
                    part for part in node.body if isinstance(part, ast.FunctionDef) and f"{node.name}.{part.name}" in names
                ]
    return found
