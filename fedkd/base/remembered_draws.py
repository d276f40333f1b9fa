"""Large random draws that are made again and again are copied: every client of a round makes its net from the same seed.

Nothing of a net is kept, nor of the function that makes it. A generator in the same state gives the same numbers when it is
asked for the same, and is in the same state after it: who draws cannot tell these numbers from drawn ones.
"""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, final

import torch
from torch import Tensor, default_generator, nn
from torch.utils._python_dispatch import TorchDispatchMode

#: Fewer numbers are drawn as fast as they are found.
FEWEST = 2**14
#: So many bytes are kept of a seed, its first draws; and so many seeds, one for each kind of net.
BYTES, SEEDS = 32 * 2**20, 4
#: What initialisers draw by.
_DRAWS = (torch.ops.aten.uniform_.default, torch.ops.aten.normal_.default)
_OF_SEEDS: dict[int, RememberedDraws] = {}


@final
class RememberedDraws(TorchDispatchMode):
    """Inside the block, large draws from torch's global generator (CPU) are remembered, and copied where they come again.

    >>> draws = RememberedDraws()
    >>> weights, again = torch.empty(200, 100), torch.empty(200, 100)
    >>> for tensor in (weights, again):
    ...     _ = torch.manual_seed(0)
    ...     with draws:
    ...         _ = nn.init.xavier_uniform_(tensor)
    >>> torch.equal(weights, again)
    True
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._held: dict[Hashable, tuple[Tensor, Tensor]] = {}  # the numbers, and the generator's state after them
        self._room = BYTES

    @property
    def any(self) -> bool:
        """Whether there are any."""
        return bool(self._held)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _DRAWS or kwargs.get("generator") is not None or not _is_plain(args[0]):
            return func(*args, **kwargs)
        tensor, *bounds = args
        state = default_generator.get_state().numpy().tobytes()
        key = func, tensor.shape, tensor.dtype, *bounds, *kwargs.items(), state
        if key in self._held:
            numbers, after = self._held[key]
            default_generator.set_state(after)
            return tensor.copy_(numbers)
        func(*args, **kwargs)
        if tensor.nbytes <= self._room:
            self._room -= tensor.nbytes
            self._held[key] = tensor.detach().clone(), default_generator.get_state()
        return tensor


def draws_of(seed: int) -> AbstractContextManager[object]:
    """The draws that are remembered of a seed, to be entered; nothing where none was large."""
    if seed in _OF_SEEDS:
        return _OF_SEEDS[seed] if _OF_SEEDS[seed].any else nullcontext()
    while len(_OF_SEEDS) >= SEEDS:
        _OF_SEEDS.pop(next(iter(_OF_SEEDS)))
    return _OF_SEEDS.setdefault(seed, RememberedDraws())


def _is_plain(tensor: Tensor) -> bool:
    """Whether it is a large usual tensor in the processor's memory."""
    usual = type(tensor) in (Tensor, nn.Parameter) and tensor.device.type == "cpu" and tensor.is_contiguous()
    return usual and tensor.numel() >= FEWEST
