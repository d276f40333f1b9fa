"""Where nodes get their nets from: nets of the zoo are used again, those of a user's function are made anew each time.

A net of the zoo is whole in its state dict, so one that is overwritten is as good as new. A user's may hold more (buffers that
are not persistent, attributes, hooks), and its function may change between two runs: nothing of it is kept but the numbers that
a seed's draws gave.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, final

from torch import Tensor, nn

from fedkd.base.errors import InputError, Notice
from fedkd.base.inputs import Shape
from fedkd.base.randomness import seeded
from fedkd.base.remembered_draws import draws_of
from fedkd.knowledge.knowledge import DTYPES
from fedkd.nets import ZOO, Copies, Net, build_net, copied, load

#: Freed nets kept ready a kind, and of small ones so many bytes: initialising a small net costs more than overwriting it.
POOL_SIZE, POOL_BYTES = 4, 128 * 2**20
_POOL: dict[NetPlan, list[Net]] = {}
#: Initial weights that all nodes share, kept by the process, as every client of a round asks for them: by seed and plan.
_SHARED: dict[tuple[int, NetPlan], Mapping[str, Tensor]] = {}


@final
@dataclass(frozen=True)
class NetPlan:
    """All that a net is made of but its weights; two with equal plans have the same tensors."""

    architecture: str
    heads: tuple[str, ...]
    factory: str | Callable[..., nn.Module] = field(hash=False)
    options: Mapping[str, Any] = field(hash=False)
    shape: Shape = field(hash=False)
    classes: int
    device: str
    vocabulary: int = 0  # how many token ids there are

    @property
    def is_of_zoo(self) -> bool:
        """Whether fedkd brings the net."""
        return self.factory in ZOO if isinstance(self.factory, str) else False

    def build(self) -> Net:
        """A net with weights drawn from torch's global generator, on its device."""
        net = build_net(
            self.factory,
            shape=self.shape,
            classes=self.classes,
            heads=self.heads,
            options=self.options,
            vocabulary=self.vocabulary,
        )
        if not self.is_of_zoo:
            _check_dtypes(net)
        return net.to(self.device)


@final
@dataclass(frozen=True, eq=False)
class Found:
    """What was found out in this run about the nets that a user's function makes."""

    share: bool = False  # whether they have tensors in common
    frozen: Mapping[str, Tensor] = field(default_factory=dict)  # what is frozen, where it would be drawn by the seed


#: Of a net of the zoo.
NOTHING = Found()


def fresh(plan: NetPlan, found: Found, *, differs: bool = True) -> Net:
    """A net that shares nothing with another, with weights drawn from the global generators; what is frozen is equal in all.

    Args:
        plan: what to make.
        found: what is known of such nets.
        differs: whether its weights are to be others than those of other draws: of a copy, the last layer is drawn anew.
    """
    net = plan.build()
    if plan.is_of_zoo:
        return net
    if isinstance(plan.factory, Copies) and differs:
        net.redraw_last()
    net = _apart(net) if found.share else net
    held = net.whole_state()
    for name, tensor in found.frozen.items():
        held[name].copy_(tensor)
    return net


def _apart(net: Net) -> Net:
    """A copy; InputError where none can be made."""
    try:
        return copied(net)
    except (TypeError, RuntimeError) as error:
        raise InputError(
            f"net {net.architecture!r} has layers that it had before, and they cannot be copied ({error}): make all layers "
            "inside the function"
        ) from None


def take(plan: NetPlan, seed: int, held: Mapping[str, Tensor] | None, found: Found, *, common: bool) -> Net:
    """A net with these weights, or, where there are none, with the initial ones of this seed.

    Args:
        plan: what to make.
        seed: of the initial weights, and of whatever else a user's net draws when it is made.
        held: its state dict as it was left, or was sent; None for a new one.
        found: what is known of such nets.
        common: whether all nodes have these initial weights.
    """
    if plan.is_of_zoo:
        if free := _POOL.get(plan):
            net = free.pop()
        else:
            # Every tensor is overwritten; the stream that dropout draws from must not tell a new net from a used one.
            with seeded(0):
                net = plan.build()
        load(net, _initial(plan, seed, common) if held is None else held)
        net.requires_grad_(True)
        return net
    with seeded(seed), draws_of(seed) if common else nullcontext():
        net = fresh(plan, found, differs=not common)
    if held is not None:
        load(net, held)
    return net


def give_back(plan: NetPlan, net: Net) -> None:
    """A net that is not needed any more. The next taker overwrites every tensor of one of the zoo."""
    for parameter in net.parameters():
        parameter.grad = None
    if not plan.is_of_zoo:
        return
    free = _POOL.setdefault(plan, [])
    if len(free) < POOL_SIZE or (len(free) + 1) * _bytes(net) <= POOL_BYTES:
        free.append(net)


def _bytes(net: Net) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in net.parameters())


def _initial(plan: NetPlan, seed: int, common: bool) -> Mapping[str, Tensor]:
    if (seed, plan) in _SHARED:
        return _SHARED[seed, plan]
    with seeded(seed):
        weights = {name: tensor.cpu() for name, tensor in plan.build().state_dict().items()}
    if common:
        while len(_SHARED) >= 8:
            _SHARED.pop(next(iter(_SHARED)))
        _SHARED[seed, plan] = weights
    return weights


def find_out(plan: NetPlan, seed: int) -> Found:
    """Whether two nets of a user's function have tensors in common, and what of them is frozen and drawn.

    Args:
        plan: what to make.
        seed: of the initial weights that all nodes share: the frozen ones are those of all nets.

    Raises:
        InputError: they start from other weights each time.
    """
    one, other = (_drawn(plan, 0) for _ in range(2))
    shared = {id(tensor) for tensor in _tensors(one)} & {id(tensor) for tensor in _tensors(other)}
    if isinstance(plan.factory, Copies):
        _say_how_copies_start(one)
    if shared.issuperset(map(id, one.encoder.parameters())) and shared:
        text = (
            f"net {one.architecture!r} is made of the same module at each call: every client and seed starts from its weights"
        )
        warnings.warn(text, Notice, stacklevel=2)
    first, second = one.whole_state(), other.whole_state()
    if not shared and (odd := [name for name in {**first, **second} if not _same(first.get(name), second.get(name))]):
        raise InputError(
            f"net {one.architecture!r}: {odd[0]} starts from other numbers each time, under the same seed: draw them from "
            "torch, numpy.random or random, whose seeds are set, and initialise every tensor"
        )
    if not one.left_out:
        return Found(bool(shared))
    frozen = {name: tensor for name, tensor in _drawn(plan, seed).whole_state().items() if name in one.left_out}
    drawn = any(not _same(tensor, first.get(name)) for name, tensor in frozen.items())
    return Found(bool(shared), {name: tensor.clone() for name, tensor in frozen.items()} if drawn else {})


def _drawn(plan: NetPlan, seed: int) -> Net:
    with seeded(seed):
        return plan.build()


def _say_how_copies_start(net: Net) -> None:
    last = net.tap.last if net.tap else ""
    text = f"net {net.architecture!r} is a module: every net of it starts from its weights"
    if last:
        text += f"; where nets must start different, {last}, its last layer, is drawn anew"
    warnings.warn(f"{text}. A function (shape, classes) -> module may draw others", Notice, stacklevel=3)


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    """Equal bit for bit, what is not a number too."""
    if one is None or other is None or one.shape != other.shape:
        return False
    return bool(((one == other) | ((one != one) & (other != other))).all())


def _tensors(net: Net) -> list[Tensor]:
    return [*net.parameters(), *net.buffers()]


def _check_dtypes(net: Net) -> None:
    for name, tensor in net.state_dict().items():
        if tensor.dtype not in DTYPES.values():
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise InputError(f"net {net.architecture!r}: {name} is {dtype}, and cannot travel: use one of {', '.join(DTYPES)}")
