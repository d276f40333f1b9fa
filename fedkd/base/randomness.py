"""What makes a run repeatable: random streams that depend on seed and purpose alone, and a fixed thread count."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def derive(seed: int, *purpose: int | str) -> int:
    """A 63-bit seed for one purpose, e.g. ``derive(0, "client", 3, "round", 7, "batches")``.

    >>> derive(0, "init") == derive(0, "init"), derive(0, "init") == derive(1, "init")
    (True, False)
    """
    text = repr((seed, *purpose)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def generator(seed: int, *purpose: int | str) -> torch.Generator:
    """A torch generator (CPU) for one purpose."""
    return torch.Generator().manual_seed(derive(seed, *purpose))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of torch (CPU, and CUDA where it is in use), NumPy and Python inside the block; restore them.

    Initialisers, dropout and kornia draw from torch's, and a user's code may draw from any; only this function touches them.
    """
    global _ASIDE
    if _ASIDE:
        _ASIDE = False  # blocks in this one restore what they find
        try:
            _seed(seed)
            np.random.seed(seed % 2**32)
            yield
        finally:
            _ASIDE = True
        return
    states = [each.get_state() for each in _of_torch()]
    of_python, of_numpy = random.getstate(), _put_numpy_aside()
    try:
        _seed(seed)
        np.random.seed(seed % 2**32)
        yield
    finally:
        _put_numpy_back(of_numpy)
        random.setstate(of_python)
        for each, state in zip(_of_torch(), states, strict=False):
            each.set_state(state)


#: Whether the global generators are restored further out.
_ASIDE = False
#: How many blocks of NumPy's lie around the innermost ``streams_aside``, that one's among them.
_ASIDE_FROM = 0


@contextmanager
def streams_aside() -> Iterator[None]:
    """Around many blocks of ``seeded`` one after the other: the global generators are restored once, after the last of them.

    Nobody may draw from these inside it but in such blocks.
    """
    global _ASIDE, _ASIDE_FROM
    with seeded(0):
        before, _ASIDE, _ASIDE_FROM = _ASIDE_FROM, True, _DEPTH
        try:
            yield
        finally:
            _ASIDE, _ASIDE_FROM = False, before
            _OURS[_DEPTH - 1] = np.random.get_bit_generator()  # type: ignore[attr-defined]


def streams_may_be_left() -> bool:
    """Whether this is one block of ``seeded`` in ``streams_aside``, and none in that."""
    return not _ASIDE and 0 < _ASIDE_FROM == _DEPTH


@contextmanager
def streams_left() -> Iterator[None]:
    """Inside such a block: out of it for a while, in which other blocks draw; what it drew from goes on where it stood.

    Half a normal draw of NumPy's is lost, as where blocks lie in one another.
    """
    global _ASIDE
    states, of_python, threads = [each.get_state() for each in _of_torch()], random.getstate(), torch.get_num_threads()
    of_numpy = np.random.get_bit_generator()  # type: ignore[attr-defined]
    np.random.set_bit_generator(_SPARE.pop() if _SPARE else np.random.MT19937(0))  # type: ignore[attr-defined]
    _ASIDE = True
    try:
        yield
    finally:
        _ASIDE = False
        _SPARE.append(np.random.get_bit_generator())  # type: ignore[attr-defined]
        np.random.set_bit_generator(of_numpy)  # type: ignore[attr-defined]
        random.setstate(of_python)
        for each, state in zip(_of_torch(), states, strict=False):
            each.set_state(state)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


#: Bit generators that stand in for those of blocks that were left.
_SPARE: list[Any] = []


def _of_torch() -> list[torch.Generator]:
    return [torch.default_generator, *(torch.cuda.default_generators if torch.cuda.is_initialized() else ())]


def _seed(seed: int) -> None:
    for each in _of_torch():
        each.manual_seed(seed)  # torch.manual_seed would format three tracebacks a call for CUDA's sake, and keep them: 1 ms
    random.seed(seed)


#: Bit generators that blocks inside one another use in turn: making one costs more than a block may. What was left exchanges
#: them with those of ``_SPARE``.
_OURS: list[Any] = []
_DEPTH = 0


def _put_numpy_aside() -> tuple[Any, Any]:
    """Let NumPy draw from a generator of ours; what to put back. Its state costs 0.1 ms to copy there and back.

    Another generator loses a normal draw that is half done, so the outermost block, in somebody else's stream, looks for one.
    """
    global _DEPTH
    before = np.random.get_bit_generator()  # type: ignore[attr-defined]
    state = None if _DEPTH else np.random.get_state(legacy=False)
    if len(_OURS) == _DEPTH:
        _OURS.append(np.random.MT19937())
    np.random.set_bit_generator(_OURS[_DEPTH])  # type: ignore[attr-defined]
    _DEPTH += 1
    return before, state


def _put_numpy_back(aside: tuple[Any, Any]) -> None:
    global _DEPTH
    before, state = aside
    _DEPTH -= 1
    np.random.set_bit_generator(before)  # type: ignore[attr-defined]
    if state is not None and state["has_gauss"]:
        np.random.set_state(state)


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """So many torch threads inside the block: one and two give different bits, so every engine uses the same."""
    before = torch.get_num_threads()
    if before == number:
        yield
        return
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
