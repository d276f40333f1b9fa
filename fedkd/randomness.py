"""What makes a run repeatable: random streams that depend on seed and purpose alone, and a fixed thread count."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

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
    """Seed torch's global generators (CPU, and CUDA where it is in use) inside the block, and restore them after it.

    Initialisers, dropout and kornia draw from the global generator; this is the only place that touches it.
    """
    # torch.manual_seed would format three tracebacks a call for CUDA's sake, and keep them: 1 ms, and a leak.
    generators = [torch.default_generator, *(torch.cuda.default_generators if torch.cuda.is_initialized() else ())]
    states = [each.get_state() for each in generators]
    try:
        for each in generators:
            each.manual_seed(seed)
        yield
    finally:
        for each, state in zip(generators, states, strict=True):
            each.set_state(state)


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
