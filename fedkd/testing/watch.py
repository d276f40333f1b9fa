"""What a strategy does while it runs: each call of its halves is looked at from outside, and does what it does anyway."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from fedkd.base.inputs import Inputs, count, rows
from fedkd.base.randomness import seeded
from fedkd.data import Samples
from fedkd.engine.strategy import Strategy
from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.node import Node
from fedkd.experiment.algorithm.predictors import Peers, Predictor
from fedkd.experiment.algorithm.train import Batch
from fedkd.knowledge.knowledge import Knowledge
from fedkd.results.history import History

#: So many samples are enough to see whether an output depends on the others of its batch.
IMAGES = 6


class Watch:
    """What was seen in a run: by kind, the first thing that should not be; and the uploads' bytes by round."""

    def __init__(self) -> None:
        self.history = History()
        self.seen: dict[str, str] = {}
        self.sent: dict[int, int] = {}
        self._client: Client | None = None  # whose update runs right now

    def see(self, kind: str, what: str, node: Node) -> None:
        """Note the first of each kind."""
        self.seen.setdefault(kind, f"{what}, in round {node.round}")

    def client_update(self, update: Any, strategy: Strategy, client: Client, broadcast: Knowledge) -> Knowledge:
        """One call at a client."""
        self._client = client
        try:
            upload: Knowledge = self._call(update, "client_update", strategy, client, [broadcast])
        finally:
            self._client = None
        self.sent[client.round] = self.sent.get(client.round, 0) + upload.raw_bytes
        self._look_for_lost_buffers(client, upload)
        return upload

    def server_update(self, update: Any, strategy: Strategy, server: Node, uploads: Mapping[int, Knowledge]) -> Any:
        """One call at the server."""
        return self._call(
            lambda _, node, *__: update(strategy, node, uploads), "server_update", strategy, server, uploads.values()
        )

    def predictors(self, make: Any, strategy: Strategy, node: Node, broadcast: Knowledge) -> Mapping[str, Predictor]:
        """One call at either, and what its predictors give of a batch."""
        made: Mapping[str, Predictor] = self._call(make, "predictors", strategy, node, [broadcast])
        samples = node.federation.examples
        batch = Batch(samples, torch.arange(min(IMAGES, len(samples))), node.work(), 0)
        for name, predictor in made.items():
            with torch.inference_mode(), seeded(0), node.work().autocast():
                self._look_at_predictor(name, predictor, batch.inputs, node)
        return made

    def take(self, take: Any, samples: Samples, positions: Tensor) -> Any:
        """Samples that are read; while a client's update runs, they must be its own, or public."""
        client, ids = self._client, samples.indices[positions]
        if client is not None and client.round:
            federation = client.federation
            if samples.inputs is federation.source.test_inputs:
                self.see("samples", f"{client.name} reads samples of the global test set", client)
            else:
                mine = [federation.client_train(client.id).indices, *([federation.public.indices] if federation.public else [])]
                if not torch.isin(ids, torch.cat(mine)).all():
                    self.see("samples", f"{client.name} reads samples that are not its own training samples", client)
        return take(samples, positions)

    def _call(self, call: Any, name: str, strategy: Strategy, node: Node, handed: Any) -> Any:
        handed = list(handed)
        before = [digest(knowledge) for knowledge in handed], _state(strategy), set(vars(node))
        answer = call(strategy, node, *handed)
        for knowledge, digested in zip(handed, before[0], strict=True):
            if digest(knowledge) != digested:
                self.see("handed", f"{name} at {node.name} wrote into the tensors that it was given", node)
        if (state := _state(strategy)) != before[1]:
            changed = sorted(key for key in state.keys() | before[1].keys() if state.get(key) != before[1].get(key))
            self.see("self", f"{name} at {node.name} changed {', '.join(changed)} of the strategy", node)
        if extra := sorted(set(vars(node)) - before[2] - set(dir(type(node)))):
            self.see("self", f"{name} put {', '.join(extra)} on the {type(node).__name__.lower()}", node)
        for key, value in node._live.items():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                self.see("graph", f"the live value {key[1]!r} of {node.name} is a tensor with a graph behind it", node)
        return answer

    def _look_for_lost_buffers(self, client: Client, upload: Knowledge) -> None:
        """A net that is sent whole is sent with its buffers; what the client itself keeps is not lost."""
        for name, (_, net, keep) in client._nets.items():
            state = net.state_dict()
            if keep or not {name for name, _ in net.named_parameters() if name in state} <= upload.tensors.keys():
                continue
            if lost := sorted(state.keys() - upload.tensors.keys()):
                self.see("buffers", f"{client.name} sends the parameters of net {name!r} without {', '.join(lost[:3])}", client)

    def _look_at_predictor(self, name: str, predictor: Predictor, inputs: Inputs, node: Node) -> None:
        axis = 1 if isinstance(predictor, Peers) else 0
        once, again = predictor.function(inputs), predictor.function(inputs)
        some = predictor.function(rows(inputs, slice(count(inputs) // 2)))
        if not torch.equal(once, again):
            self.see("mode", f"predictor {name!r} at {node.name} gives other outputs when asked twice", node)
        elif not torch.allclose(once.narrow(axis, 0, some.shape[axis]), some, rtol=1e-3, atol=1e-4):
            self.see("mode", f"predictor {name!r} at {node.name} gives of a sample what depends on the batch", node)


@contextmanager
def watching(cls: type[Strategy]) -> Iterator[Watch]:
    """Watch all that strategies of this class do inside the block; after it the class is as it was."""
    watch = Watch()

    def around(method: str, original: Any) -> Any:
        return lambda *arguments: getattr(watch, method)(original, *arguments)

    with (
        patch.object(cls, "client_update", around("client_update", cls.client_update)),
        patch.object(cls, "server_update", around("server_update", cls.server_update)),
        patch.object(cls, "predictors", around("predictors", cls.predictors)),
        patch.object(Samples, "take", around("take", Samples.take)),
    ):
        yield watch


def digest(knowledge: Knowledge) -> str:
    """A hash of all tensors, by name."""
    content = hashlib.blake2b()
    for name, tensor in knowledge.tensors.items():
        content.update(name.encode() + tensor.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return content.hexdigest()


def _state(strategy: Strategy) -> dict[str, str]:
    """What lies on a strategy and on its class, as text."""
    own = {key: value for key, value in vars(strategy).items() if not key.startswith("__")}
    shared = {key: value for key, value in vars(type(strategy)).items() if _may_change(key, value)}
    return {key: repr(value) for key, value in (own | shared).items()}


def _may_change(key: str, value: object) -> bool:
    return not key.startswith("_") and isinstance(value, list | dict | set | int | float | Tensor)
