"""The rehearsal: what can be checked before round 1. The partition is drawn, and every net sees one batch of real samples.

Nothing of it lasts: the nets are thrown away, and no random stream of the run is drawn from.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from fedkd.base.errors import InputError, Notice, under
from fedkd.base.inputs import Inputs, describe, shape_of
from fedkd.base.randomness import seeded
from fedkd.data.views import find_view
from fedkd.experiment.algorithm.algorithm import Algorithm
from fedkd.experiment.algorithm.conditions import why_idle
from fedkd.experiment.algorithm.node import Node
from fedkd.experiment.algorithm.section import OPTIMIZERS
from fedkd.experiment.algorithm.step import make_optimizer
from fedkd.experiment.algorithm.train import Batch
from fedkd.experiment.named_nets import nets_of
from fedkd.experiment.registry import name_of, names
from fedkd.nets import ZOO, are_probabilities, changed, unsaved_state

#: Few enough for any net, enough for batch statistics, and rarely the number of classes.
BATCH_SIZE = 6


def rehearse(strategy: Algorithm, node: Node) -> None:
    """Draw the partition, and run every net of the experiment once, in train and in eval mode.

    Raises:
        InputError: in one line, which draw cannot be made, why strategy or views cannot be used on these samples, or which net
            fails, what came out of it, and what should have.
    """
    node.federation.partition_table()
    strategy.needs.check_samples(type(strategy).__name__, node.federation.source)
    batch = _batch(node)
    if "views" in (strategy.needs.uses or ()) and not why_idle(strategy, node.experiment, "views"):
        _check_views(node, batch)
    for architecture, key in nets_of(node.experiment).items():
        with under(key), torch.no_grad(), seeded(0):
            _check(node, architecture, batch.inputs, shipped=name_of(type(strategy)) in names())
    strategy.check_samples(node)


def _batch(node: Node) -> Batch:
    """Training samples, normalised as in training: (B, ...), B = 6, over again where there are fewer."""
    samples = node.federation.examples
    return Batch(samples, torch.arange(BATCH_SIZE) % len(samples), node.work(), 0)


def _check_views(node: Node, batch: Batch) -> None:
    """Whether there are such views of this kind of samples; a function of the user's own is called once."""
    views = node.experiment.data.views
    find_view(views, node.federation.source.kind)
    if ":" not in views:
        return
    try:
        batch.view(0)
    except InputError:
        raise
    except Exception as error:  # whatever a user's own code raises
        raise InputError(f"data.views = {views!r} fails on {_said(node, batch.inputs)}: {_in_one_line(error)}") from error


def _said(node: Node, inputs: Inputs) -> str:
    return f"a batch of {node.federation.source.kind.name} samples {describe(shape_of(inputs))}"


def _in_one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _cure(inputs: Inputs) -> str:
    """What to do about a net that does not take these samples, where it can be told."""
    if isinstance(inputs, Mapping):
        return f" (samples are tensors by name: its forward is called with {', '.join(f'{name}=' for name in inputs)})"
    if not inputs.is_floating_point():
        return " (samples are token ids, int64: it must begin with an embedding)"
    return ""


def _check(node: Node, architecture: str, inputs: Inputs, *, shipped: bool) -> None:
    name, what = architecture, "cannot be built as net(shape, classes, **its net_options)"
    try:
        net = node.fresh_net(architecture=architecture)
        name = net.architecture
        before = unsaved_state(net)
        for mode in ("train", "eval"):
            what = f"fails in {mode} mode on {_said(node, inputs)}"
            with node.work().autocast():
                logits = net.train(mode == "train")(inputs)
            if wrong := _fault(logits):
                raise InputError(f"net {name!r} gives {wrong}")
        if architecture not in ZOO:
            _say_what_is_odd(name, changed(before, unsaved_state(net)), logits)
        if node.experiment.train.optimizer not in OPTIMIZERS:
            make_optimizer(net, node.work())
        if not any(parameter.requires_grad for parameter in net.parameters()):
            raise InputError(
                f"net {name!r} has nothing to train: all its parameters are frozen; leave its last layer trainable"
            )
    except InputError:
        if architecture not in ZOO or shipped:
            raise  # a strategy of a user's own may leave the default net alone, which these samples may be too small for
    except Exception as error:  # whatever a user's own code raises
        raise InputError(f"net {name!r} {what}: {_in_one_line(error)}{_cure(inputs)}") from error


def _say_what_is_odd(name: str, moved: list[str], logits: Tensor) -> None:
    if moved:
        text = f"net {name!r} changes {moved[0]} in a forward pass, which its state dict does not hold"
        cure = "it is not sent, and starts anew where a net is received: keep it in a persistent buffer (register_buffer)"
        warnings.warn(f"{text}: {cure}", Notice, stacklevel=2)
    if are_probabilities(logits):
        text = f"net {name!r} gives probabilities, it seems, where logits are expected: leave its last softmax away"
        warnings.warn(text, Notice, stacklevel=2)


def _fault(logits: Tensor) -> str:
    """What is wrong with the values of a net's outputs; empty where nothing is. Their shapes the net has checked itself."""
    if bad := int((~logits.isfinite()).sum()):
        return (
            f"{bad} of {logits.numel()} logits that are not finite, before any training: check how its weights are initialised"
        )
    return ""
