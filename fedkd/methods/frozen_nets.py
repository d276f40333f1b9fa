"""Received nets as frozen teachers."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from fedkd.experiment.algorithm.node import Node
from fedkd.knowledge.knowledge import Knowledge
from fedkd.nets import Net, load


def frozen_net(node: Node, name: str, weights: Mapping[str, Tensor], architecture: str | None = None) -> Net:
    """A passing net with these weights and buffers, in eval mode, not to be trained; by default of the node's architecture."""
    net = node.net(name, architecture=architecture)
    load(net, weights)
    return net.eval().requires_grad_(False)


def tensors_under(broadcast: Knowledge, prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with ``prefix``, by the rest of their names."""
    return {name.removeprefix(prefix): t for name, t in broadcast.tensors.items() if name.startswith(prefix)}


# ---- a teacher that is broadcast beside the student

#: How the names of the teacher's tensors begin.
TEACHER = "teacher/"


def student_tensors(broadcast: Knowledge) -> dict[str, Tensor]:
    """All tensors of a broadcast but the teacher's."""
    return {name: tensor for name, tensor in broadcast.tensors.items() if not name.startswith(TEACHER)}


def with_teacher(student: Knowledge, teacher: Mapping[str, Tensor]) -> Knowledge:
    """A student's weights with a teacher's beside them; as they are, where there is no teacher."""
    return student.with_tensors("weights", {TEACHER + name: tensor for name, tensor in teacher.items()})


def put_under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, their names with ``prefix`` in front: what ``tensors_under`` takes out of a message again."""
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
