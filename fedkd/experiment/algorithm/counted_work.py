"""Counting the work of a client or of the server: floating point operations, which are the same on every machine.

Counted are matrix products, convolutions and attention, forward and backward, two operations for each product and its sum, by
the formulas of ``torch.utils.flop_counter``; element-wise work and optimiser steps are not. torch's own FlopCounterMode hooks
into every module to tell them apart, which takes several times as long; here only the sum is wanted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, final

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

#: The metric by which a client tells the operations of its call.
FLOPS = "flops"


@final
class CountedWork(TorchDispatchMode):
    """Counts what is computed while it is entered.

    >>> with CountedWork() as work:
    ...     _ = torch.ones(2, 3) @ torch.ones(3, 4)
    >>> work.flops  # 2 x 3 x 4 products, each with a sum
    48
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0
        self._formulas: dict[Any, Any] = {}

    def __enter__(self) -> CountedWork:
        super().__enter__()  # type: ignore[no-untyped-call]
        _COUNTING.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        _COUNTING.remove(self)
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Nothing is counted in here, and nothing slowed down."""
        self.__exit__(None, None, None)
        try:
            yield
        finally:
            self.__enter__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in self._formulas:
            self._formulas[func] = _formula_of(func)
        formula = self._formulas[func]
        if formula is _TAKE_APART:
            with self:
                return func.decompose(*args, **kwargs)
        result = func(*args, **kwargs)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=result)
        return result


def _of_fused_encoder_layer(src: Any, width: int, heads: int, qkv: Any, _: Any, projection: Any, *rest: Any, **__: Any) -> int:
    """A transformer's layer in one kernel, as torch computes it in eval mode: what its four linear maps and attention take."""
    first, second = rest[8], rest[10]
    tokens = src.numel() // width
    lengths = src._nested_tensor_size()[:, 0].tolist() if src.is_nested else [src.shape[-2]] * (tokens // src.shape[-2])
    linear = 2 * tokens * (qkv.numel() + projection.numel() + first.numel() + second.numel())
    return int(linear + 4 * width * sum(length**2 for length in lengths))


def _of_fused_lstm(inputs: Any, of_input: Any, of_state: Any, *_: Any, **__: Any) -> int:
    """One layer and direction of an LSTM in one kernel: what the two maps of each step take."""
    return int(2 * (inputs.numel() // inputs.shape[-1]) * (of_input.numel() + of_state.numel()))


_ATEN = torch.ops.aten
#: Kernels for which torch has no formulas: those that do the work of several functions, and attention on a CPU.
_FUSED = {
    _ATEN._scaled_dot_product_flash_attention_for_cpu: flop_registry[_ATEN._scaled_dot_product_flash_attention],
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _ATEN._scaled_dot_product_flash_attention_backward
    ],
    _ATEN._transformer_encoder_layer_fwd: _of_fused_encoder_layer,
    _ATEN.mkldnn_rnn_layer: _of_fused_lstm,
    _ATEN.mkldnn_rnn_layer_backward: lambda *args, **kwargs: 2 * _of_fused_lstm(*args, **kwargs),
}
_COUNTING: list[CountedWork] = []
_TAKE_APART = object()


def _formula_of(func: Any) -> Any:
    """How the operations of a function of torch are counted: a formula, by its parts, or (None) not at all."""
    packet: Any = getattr(func, "overloadpacket", None)
    if formula := _FUSED.get(packet) or flop_registry.get(packet):
        return formula
    name = getattr(func, "name", lambda: "")()
    # Under inference_mode nobody has taken such a function apart before it comes here.
    composite = name and torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd")
    return _TAKE_APART if composite else None


@contextmanager
def counting(*, on: bool) -> Iterator[dict[str, float]]:
    """The metric that tells what is computed in here, filled at its end; without one, and at no cost, where it is off."""
    metrics: dict[str, float] = {}
    if not on:
        yield metrics
        return
    with CountedWork() as work:
        yield metrics
    metrics[FLOPS] = float(work.flops)


def is_counting() -> bool:
    """Whether what is computed here is counted."""
    return bool(_COUNTING)


@contextmanager
def uncounted() -> Iterator[None]:
    """For what repeats work that was counted before: whether it is needed depends on what an engine keeps."""
    with ExitStack() as stack:
        for work in reversed(_COUNTING):
            stack.enter_context(work.suspended())
        yield


@final
class Alike:
    """Batches of one loop, of which those of one size take the same operations: the first two are counted, the others take
    what the second took. To look at each operation would take up to ten times as long as to compute it.

    The first may compute what others find at hand.
    """

    def __init__(self) -> None:
        self._counted: dict[int, list[int]] = {}

    @contextmanager
    def batch(self, size: int) -> Iterator[None]:
        """One batch of so many samples. Costs nothing where nobody counts."""
        if not _COUNTING:
            yield
            return
        work, counted = _COUNTING[-1], self._counted.setdefault(size, [])
        if len(counted) < 2:
            before = work.flops
            yield
            counted.append(work.flops - before)
        else:
            with work.suspended():
                yield
            work.flops += counted[-1]
