"""What of a net never changes, so that it need not travel: what its maker froze."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor, nn


def unchanging(module: nn.Module) -> frozenset[str]:
    """The names of frozen parameters, and of the buffers of frozen parts that stay in eval mode when the whole trains.

    A BatchNorm whose weights alone are frozen still moves its statistics in train mode: these are not among them.

    >>> net = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.BatchNorm1d(2).requires_grad_(False), nn.Linear(2, 1))
    >>> sorted(unchanging(net))
    ['0.bias', '0.weight', '1.bias', '1.weight']
    """
    names = {name for name, held in module.named_parameters(remove_duplicate=False) if not held.requires_grad}
    if not names:
        return frozenset()
    modes = {part: part.training for part in module.modules()}
    module.train()
    for path, part in module.named_modules(remove_duplicate=False):
        own = [name for name, _ in part.named_buffers(recurse=False)]
        if own and not part.training and not any(parameter.requires_grad for parameter in part.parameters()):
            names |= {f"{path}.{name}".removeprefix(".") for name in own}
    for part, mode in modes.items():
        part.training = mode
    return frozenset(names)


def completed(state: Mapping[str, Tensor], whole: Mapping[str, Tensor], left_out: Collection[str]) -> dict[str, Tensor]:
    """A state that was sent or kept with what it leaves out, wherever in it the net lies.

    Args:
        state: of a net, or of a module with nets in it.
        whole: all that such a net holds, by name.
        left_out: the names in ``whole`` that do not travel.

    >>> import torch
    >>> whole = {"body.weight": torch.zeros(1), "last.weight": torch.zeros(2)}
    >>> sorted(completed({"student.last.weight": torch.ones(2)}, whole, ["body.weight"]))
    ['student.body.weight', 'student.last.weight']
    """
    sent = {name: tensor.shape for name, tensor in whole.items() if name not in left_out}
    found = dict(state)
    if not sent or not left_out:
        return found
    first = next(iter(sent))
    for place in [name.removesuffix(first) for name in state if name == first or name.endswith(f".{first}")]:
        if all(f"{place}{name}" in state and state[f"{place}{name}"].shape == shape for name, shape in sent.items()):
            found |= {f"{place}{name}": whole[name].cpu() for name in left_out if name in whole}
    return found
