"""MutualNet: narrower nets within one net, at lower resolutions, learn what the whole net says of the whole image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fedkd import (
    Batch,
    Classifier,
    Client,
    InputError,
    Knowledge,
    Listed,
    Needs,
    Node,
    Server,
    Strategy,
    broadcast_net,
    classifier,
    fit,
)
from fedkd.aggregate import weighted_mean
from fedkd.base.inputs import Inputs
from fedkd.losses import kd_loss
from fedkd.methods.branches import example_input
from fedkd.nets import Net, check_slimmable, slimmed

Sides = Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Listed]

#: The paper's on images of 32 pixels: 32, 28, 24 and 20.
RESOLUTIONS = (1.0, 0.875, 0.75, 0.625)


@final
@dataclass(frozen=True)
class MutualNet(Strategy):
    """Each step trains the whole net on labels, and three narrower ones, cut from it, on the whole net's predictions.

    Paper: Yang et al., "MutualNet: Adaptive ConvNet via Mutual Learning from Network Width and Resolution", ECCV 2020,
    arXiv 1909.12978; formulas and numbers of its official code.
    What travels: weights and buffers, |θ| elements down and up; the narrower nets are parts of the net. With
    ``data.clients = 1`` the run is the paper's, with more it is FedAvg of such nets.
        CE(z, y) + sum over 3 narrower nets of KL(softmax(z) || softmax(z_narrow)),   z constant in the sum
    One of the three has the least width, two have widths drawn uniformly between it and 1, at each step anew; each sees
    the images at a resolution drawn from ``resolutions``, by bilinear interpolation. T = 1, no labels for the three.
    A net of width w has the first w of the channels of each layer but the last. BatchNorm in train mode takes each
    pass's own batch statistics; the running ones are those of the whole net alone, so that it needs no others.
    ``narrow_accuracy`` is that of the least width, for nets without BatchNorm. The optimiser's state stays at a client.
    What all four nets share descends the sum of their gradients: a net without BatchNorm, which bears no such steps,
    wants ``train.clip`` or a rate of about a quarter of what it bears alone.
    Deviations: the code measures the running statistics of each width again before each test, which here nobody does:
    with BatchNorm take the whole net, or measure them for the width that you deploy. What is cut off is computed and
    set to zero: the same numbers, no time saved in training. Widths are not rounded to multiples of 8.
    """

    narrowest: Annotated[float, Field(gt=0, lt=1)] = 0.25  # the least width; 0.25 on ImageNet, 0.9 for a wide ResNet
    resolutions: Sides = ()  # shares of the side; default, 1, 0.875, 0.75 and 0.625 where a net takes them, else 1

    paper: ClassVar[str] = "Yang et al., ECCV 2020, arXiv 1909.12978"
    sends: ClassVar[str] = "weights and buffers, both ways"
    needs: ClassVar[Needs] = Needs(labels=True, equal_nets=True)

    def first_broadcast(self, server: Server) -> Knowledge:
        """The shared initial weights of a net that can be made narrower."""
        net = server.net()
        check_slimmable(net)
        self._resolutions(server)
        return Knowledge.of("weights", net.state_dict())

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs of the whole net and three in it."""
        net, data = client.net(weights=broadcast.tensors), client.train.labelled()
        resolutions = tuple(self._resolutions(client))

        def loss(net: Net, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
            logits = net(batch.inputs)  # (B, C)
            learned = []
            for width, share in draw_narrow(self.narrowest, resolutions, rng):
                with slimmed(net, width):
                    narrow = net(at_resolution(batch.inputs, share))
                learned.append(kd_loss(narrow, logits, temperature=1.0))
            return {"cross_entropy": batch.cross_entropy(logits), "distillation": torch.stack(learned).sum()}

        drawn = client.rng("widths and resolutions")
        losses = fit(net, data, loss, given=(drawn,), optimizer=client.optimizer("main", net))
        return Knowledge.of("weights", net.state_dict(), weight=len(data), metrics=losses)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The mean, weighted by sample counts; of one client, what it sent."""
        return weighted_mean(uploads)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The whole net, and the narrowest in it if it needs no statistics of its own."""
        net = broadcast_net(node, broadcast)
        if any(isinstance(part, torch.nn.modules.batchnorm._BatchNorm) for part in net.modules()):
            return {"whole": classifier(net)}
        return {"whole": classifier(net), "narrow": Classifier(partial(predict_narrow, net, self.narrowest))}

    def _resolutions(self, node: Node) -> Sequence[float]:
        """Those that are set, or as many of the paper's as the net takes."""
        wanted = self.resolutions or RESOLUTIONS
        if not (failed := node.live("refused resolutions", lambda: refused(node, wanted))):
            return wanted
        if self.resolutions:
            raise InputError(
                f"strategy.resolutions: net {node.architecture!r} takes samples of one size only, and no share of "
                f"{failed[0]:g}: leave them away, or take a resnet18"
            )
        return (1.0,)


def draw_narrow(least: float, resolutions: Sequence[float], rng: torch.Generator) -> list[tuple[float, float]]:
    """Widths and resolutions of a step's three narrower nets: the least width, and two drawn between it and 1.

    >>> [width for width, _ in draw_narrow(0.5, (1.0,), torch.Generator().manual_seed(0))][0]
    0.5
    """
    widths = [least, *(least + (1 - least) * torch.rand(2, generator=rng)).tolist()]
    places = torch.randint(len(resolutions), (len(widths),), generator=rng).tolist()
    return [(width, resolutions[place]) for width, place in zip(widths, places, strict=True)]


def refused(node: Node, resolutions: Sequence[float]) -> list[float]:
    """Which resolutions a net of this node does not take: all but 1 where samples are no images."""
    net, example = node.net("of other resolutions").eval(), example_input(node)
    found = []
    for share in resolutions:
        try:
            with torch.no_grad():
                net(at_resolution(example, share))
        except (RuntimeError, ValueError, InputError):
            found.append(share)
    return found


def at_resolution(images: Inputs, share: float) -> Inputs:
    """Images (B, C, H, W) with this share of their height and width, at least one pixel each.

    >>> at_resolution(torch.zeros(2, 1, 8, 8), 0.625).shape
    torch.Size([2, 1, 5, 5])
    """
    if share == 1:
        return images
    if not isinstance(images, Tensor) or images.dim() != 4:
        raise ValueError("only images have a resolution")
    size = [max(1, round(share * side)) for side in images.shape[2:]]
    return F.interpolate(images, size, mode="bilinear", align_corners=True)


def predict_narrow(net: Net, width: float, inputs: Inputs) -> Tensor:
    """Logits (B, C) of a net of this width."""
    with slimmed(net, width):
        logits: Tensor = net(inputs)
    return logits
