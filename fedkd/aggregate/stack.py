"""From uploads to one tensor: what every reduction over clients starts from."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedkd.knowledge.knowledge import Knowledge


def stack(uploads: Mapping[int, Knowledge], name: str) -> Tensor:
    """One tensor of every upload, (K, ...), in order of client id.

    Refuses to mix what cannot be averaged: the mean of logits and probabilities means nothing.

    Raises:
        ValueError: there are no uploads, one lacks the tensor, or two hold it in different spaces, shapes or types.

    >>> uploads = {k: Knowledge.of("logits", {"table": torch.full((1, 2), float(k))}) for k in (7, 3)}
    >>> stack(uploads, "table").tolist()
    [[[3.0, 3.0]], [[7.0, 7.0]]]
    """
    if not uploads:
        raise ValueError(f"stack: there are no uploads to take {name!r} from")
    clients = sorted(uploads)
    kinds = {client: _kind(client, uploads[client], name) for client in clients}
    first = clients[0]
    for client in clients:
        if kinds[client] != kinds[first]:
            raise ValueError(f"stack: {name!r} of client {first} is {kinds[first]}, of client {client} {kinds[client]}")
    return torch.stack([uploads[client].tensors[name] for client in clients])  # (K, ...)


def _kind(client: int, upload: Knowledge, name: str) -> str:
    """What must be equal: space, type and shape, as one reads them in an error."""
    if name not in upload.tensors:
        raise ValueError(f"stack: client {client} sent no {name!r}, only {', '.join(sorted(upload.tensors)) or 'nothing'}")
    tensor = upload.tensors[name]
    return f"{upload.spaces[name]} {tensor.dtype} {tuple(tensor.shape)}"
