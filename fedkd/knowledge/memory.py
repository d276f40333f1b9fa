"""Memory: what a client or the server keeps from one call to the next, by name. The truth lies in Flower's Context.state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fedkd.knowledge.knowledge import Knowledge

if TYPE_CHECKING:
    from flwr.app import RecordDict

Value = Tensor | int | float | str


class Memory(MutableMapping[str, Value]):
    """A dict of tensors and scalars that knows how to lie in Flower's records. Tensors are detached on entry."""

    def __init__(self, values: Mapping[str, Value] | None = None) -> None:
        self._values: dict[str, Value] = dict(values or {})

    def __getitem__(self, key: str) -> Value:
        return self._values[key]

    def __setitem__(self, key: str, value: Value) -> None:
        if not isinstance(value, Tensor | int | float | str):
            raise TypeError(f"memory holds tensors, numbers and text; {key!r} is a {type(value).__name__}")
        self._values[key] = value.detach() if isinstance(value, Tensor) else value

    def __delitem__(self, key: str) -> None:
        del self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def tensor(self, key: str) -> Tensor:
        """The tensor of this name; KeyError where there is none, TypeError where it is none."""
        value = self[key]
        if not isinstance(value, Tensor):
            raise TypeError(f"memory[{key!r}] is a {type(value).__name__}, not a tensor")
        return value

    def under(self, prefix: str) -> dict[str, Tensor]:
        """All tensors whose name starts with ``prefix``, by the rest of their name."""
        values = {key[len(prefix) :]: value for key, value in self.items() if key.startswith(prefix)}
        return {key: value for key, value in values.items() if isinstance(value, Tensor)}

    def store(self, prefix: str, tensors: Mapping[str, Tensor]) -> None:
        """Replace everything under ``prefix`` by copies of these tensors, on the CPU."""
        for key in [key for key in self if key.startswith(prefix)]:
            del self[key]
        for key, tensor in tensors.items():
            self[prefix + key] = torch.clone(tensor.detach()).cpu()

    def write(self, state: RecordDict) -> None:
        """Write everything into ``state`` (a Context's), replacing what an earlier call wrote."""
        from fedkd.knowledge.records import MANIFEST, to_records  # only here, as it imports Flower: an Experiment needs none

        if not self and MANIFEST not in state:
            return
        tensors = {key: value for key, value in self.items() if isinstance(value, Tensor)}
        facts = {key: value for key, value in self.items() if not isinstance(value, Tensor)}
        state.update(to_records(Knowledge.of("weights", tensors, header=facts)))

    @classmethod
    def read(cls, state: RecordDict) -> Memory:
        """What ``write`` wrote; empty where nothing was."""
        from fedkd.knowledge.records import MANIFEST, METRICS, TENSORS, from_records  # likewise

        if MANIFEST not in state:
            return cls()
        held = from_records(type(state)({key: state[key] for key in (TENSORS, MANIFEST, METRICS)}))
        return cls({**held.tensors, **held.header})
