"""Anchors on the wire: unit rows (P, D) of P public samples, the same ones in all rounds, in an order that all nodes share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from fedkd.base.errors import InputError
from fedkd.experiment.algorithm.server import Server
from fedkd.knowledge.knowledge import Knowledge, TensorSpec
from fedkd.methods.encoders.anchors import ANCHORS, width_of

#: A field that takes the number P of public samples whose embeddings travel, the same ones in all rounds; 0 = all.
PublicSize = Annotated[int, Field(ge=0)]
#: What an upload must hold, by name.
Schema = Mapping[str, TensorSpec]


def pack(rows: Tensor, **rest: Any) -> Knowledge:
    """Rows (P, D) as a message: 4 P D bytes. ``rest``: weight and metrics."""
    return Knowledge.of("embedding", {ANCHORS: rows}, **rest)


def anchor_schema(server: Server, size: int, *more: str, heads: tuple[str, ...]) -> Schema:
    """What an upload about the public subset of this size holds.

    Args:
        server: where the nets are built.
        size: of the subset for all rounds; 0 = all public samples.
        more: names of nets beside the clients'.
        heads: of the nets, "projection" among them.

    Raises:
        InputError: the nets' projections differ in width, or a net has no features.
    """
    names = dict.fromkeys((*server.experiment.architectures, *more))
    nets = {name: server.net(f"width of {name}", architecture=name, heads=heads) for name in names}
    widths = {name: width_of(net) for name, net in nets.items()}
    if len(set(widths.values())) > 1:
        listed = ", ".join(f"{name} {width}" for name, width in widths.items())
        raise InputError(f"nets: anchors need projections of one width, these have {listed}: give all the same projection head")
    (width,) = set(widths.values())
    return {ANCHORS: TensorSpec((len(server.public_subset(size, round=0)), width), torch.float32, "embedding")}


#: By how much the length of a row may miss 1: half precision and 8-bit integers do.
LENGTH_TOLERANCE = 1e-2


def check_unit_rows(upload: Knowledge) -> None:
    """Raise ValueError unless every row has length 1: a long one would outvote the other clients'."""
    lengths = torch.linalg.vector_norm(upload.tensors[ANCHORS].double(), dim=1)  # (P,)
    off = (lengths - 1).abs()
    if len(off) and float(off.max()) > LENGTH_TOLERANCE:
        raise ValueError(f"its anchors have a row of length {float(lengths[off.argmax()]):g}, not 1")
