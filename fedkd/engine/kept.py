"""Uploads and broadcasts as a run's directory keeps them, and back."""

from __future__ import annotations

from collections.abc import Mapping

from fedkd.knowledge.knowledge import Knowledge
from fedkd.results.uploads import KeptExchange, KeptMessage


def kept_exchange(uploads: Mapping[int, Knowledge], answer: Knowledge | Mapping[int, Knowledge] | None) -> KeptExchange:
    """What the server worked with in an exchange, and what it made of it; None where it could make nothing of it."""
    of_clients = {client: _kept(upload) for client, upload in uploads.items()}
    answer = one_for_all(answer)
    if isinstance(answer, Mapping):
        return KeptExchange(of_clients, None, {client: _kept(each) for client, each in answer.items()})
    return KeptExchange(of_clients, None if answer is None else _kept(answer), {})


def one_for_all(answer: Knowledge | Mapping[int, Knowledge] | None) -> Knowledge | Mapping[int, Knowledge] | None:
    """The broadcast of all clients, where each is told the very same; else what each is told."""
    if isinstance(answer, Mapping) and len({id(each) for each in answer.values()}) == 1:
        return next(iter(answer.values()))
    return answer


def knowledge_of(kept: KeptMessage) -> Knowledge:
    """The message; what it reported is not kept, as nobody computes with it."""
    tensors = {name: tensor for name, (_, tensor) in kept.tensors.items()}
    return Knowledge(tensors, {name: space for name, (space, _) in kept.tensors.items()}, kept.header, kept.weight)


def _kept(knowledge: Knowledge) -> KeptMessage:
    return KeptMessage(knowledge.copy().by_name(), knowledge.header, knowledge.weight)
