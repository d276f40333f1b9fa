"""Samples that nobody has: a generator is trained until frozen nets say what is wanted of what it makes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fedkd.base.errors import InputError, Notice
from fedkd.data import KINDS, Samples
from fedkd.data.kinds import NO_MOMENTS
from fedkd.experiment.algorithm.node import Node
from fedkd.experiment.algorithm.server import Server
from fedkd.experiment.algorithm.step import descend
from fedkd.experiment.algorithm.train import Split
from fedkd.methods.public_distillation import predict_public
from fedkd.nets import Net
from fedkd.nets.generator import Generator

#: Samples of noise on which a net must give finite numbers, to be a teacher.
PROBES = 64
#: The kinds of samples that can be made: those of real numbers.
MADE = ("image", "vector", "sequence")


def check_made(name: str, node: Node) -> None:
    """Refuse samples that no generator can make; say where theirs would not lie where real ones do."""
    source = node.federation.source
    if source.kind.name not in MADE or not isinstance(source.shape, tuple):
        raise InputError(
            f"strategy: {name} makes samples of real numbers, and data.source {source.name!r} holds samples of kind "
            f"{source.kind.name!r}: take images, vectors or signals, or a method over public samples"
        )
    if source.kind.name != "image" and node.experiment.data.normalise == "none":
        warnings.warn(
            f'data.normalise = "none": {name} makes samples of mean 0 and deviation 1, and those of {source.name!r} may lie '
            "elsewhere: their nets teach less there",
            Notice,
            stacklevel=2,
        )


def make_generator(server: Server, *, noise: int, width: int, told: bool = False, keep: bool = False) -> Generator:
    """A generator of the server's, for samples as its nets take them, normalised.

    Args:
        server: where it is trained.
        noise: how many numbers it gets for each sample.
        width: see ``Generator``.
        told: whether it is told of which class a sample shall be.
        keep: whether it goes on in the next round.
    """
    known, shape = server.federation.examples, server.federation.source.shape
    assert isinstance(known.inputs, Tensor) and isinstance(shape, tuple)
    pixels = None if known.inputs.is_floating_point() else known.moments
    classes = server.classes if told else 0

    def build() -> Generator:
        return Generator(shape, noise=noise, classes=classes, width=width, pixels=pixels)

    return server.module("generator", build, keep=keep)


def seek(
    server: Server,
    generator: Generator,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[Tensor], Mapping[str, Tensor]],
    noise: Tensor,
    labels: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """One step towards samples for which ``loss`` is low.

    Args:
        server: whose precision it is taken in.
        generator: what makes them.
        optimizer: takes the step.
        loss: parts of the loss of samples (B, ...) by name; their sum is descended.
        noise: (B, Z) what they are made of.
        labels: (B,) of which classes they shall be, for a generator that is told.

    Returns:
        (B, ...) the samples as they were before it, and the parts of their loss.
    """
    work = server.work()
    with work.autocast():
        samples = generator(noise, labels)
        parts = loss(samples)
    if not any(part.requires_grad for part in parts.values()):
        raise InputError(f"{work.where}: no gradient reaches the samples: nets that compute without one cannot teach so")
    logged = descend(parts, optimizer, work)
    return samples.detach(), dict(zip(parts, logged, strict=False))


def synthesise(
    server: Server,
    generator: Generator,
    loss: Callable[[Tensor], Mapping[str, Tensor]],
    *,
    size: int,
    steps: int,
    lr: float,
    rng: torch.Generator,
) -> tuple[Tensor, dict[str, float]]:
    """A batch of samples for which ``loss`` is low: generator and noise start anew and are trained for it.

    Of the batches of all steps the best is given, which is looked for without waiting for a device. Adam as in DENSE.

    Args:
        server: whose precision it is trained in.
        generator: what makes them.
        loss: as in ``seek``.
        size: B.
        steps: of the optimiser.
        lr: its learning rate.
        rng: where weights and noise are drawn.

    Returns:
        (B, ...) samples, normalised, on the CPU, and the parts of their loss.
    """
    generator.redraw(rng)
    noise = torch.randn(size, generator.noise, generator=rng).to(server.device).requires_grad_()
    adam = torch.optim.Adam([*generator.parameters(), noise], lr=lr, betas=(0.5, 0.999), fused=True)
    best, least = torch.empty(0), torch.full((), torch.inf, device=server.device)
    kept: dict[str, Tensor] = {}
    for _ in range(steps):
        samples, parts = seek(server, generator, adam, loss, noise)
        total = torch.stack([*parts.values()]).sum()
        better = total < least
        if not kept:
            best, kept = samples, parts
        best, least = torch.where(better, samples, best), torch.where(better, total, least)
        kept = {name: torch.where(better, part, kept[name]) for name, part in parts.items()}
    return best.float().cpu(), {name: float(part) for name, part in kept.items()}


def sound(server: Server, nets: Mapping[int, Net]) -> dict[int, Net]:
    """Those of clients' nets that give finite numbers for noise of the scale of samples: the others cannot teach."""
    shape = server.federation.source.shape
    assert isinstance(shape, tuple)
    noise = as_split(server, torch.randn(PROBES, *shape, generator=server.rng("probes")))
    return {client: net for client, net in nets.items() if bool(predict_public(net, noise).isfinite().all())}


def as_split(server: Server, samples: Tensor) -> Split:
    """Samples that were made, (M, ...) and normalised, as training takes them."""
    source, places = server.federation.source, torch.arange(len(samples))
    unlabelled = torch.full((len(samples),), -1)
    kind = KINDS[source.kind.name]
    return server.split(Samples(samples.cpu(), unlabelled, places, kind, NO_MOMENTS, server.classes))
