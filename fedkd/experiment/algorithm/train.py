"""The one training loop. No algorithm: the loss is an argument."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from fedkd.base.errors import TrainingError
from fedkd.base.meeting import can_meet
from fedkd.data import Samples
from fedkd.experiment.algorithm.counted_work import Alike
from fedkd.experiment.algorithm.split import Batch as Batch
from fedkd.experiment.algorithm.split import Draw as Draw
from fedkd.experiment.algorithm.split import Loss as Loss
from fedkd.experiment.algorithm.split import Rng as Rng
from fedkd.experiment.algorithm.split import Split as Split
from fedkd.experiment.algorithm.step import descend, make_optimizer
from fedkd.experiment.algorithm.together.meet import fit_together
from fedkd.experiment.algorithm.trained import check_weights, mean_losses
from fedkd.experiment.algorithm.work import Work


def fit(
    net: nn.Module,
    data: Split,
    loss: Loss,
    *,
    given: tuple[Any, ...] = (),
    optimizer: torch.optim.Optimizer | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    draws: Iterable[Draw] | None = None,
    after_step: Callable[[], None] | None = None,
) -> dict[str, float]:
    """Train ``net`` (which may be a ModuleDict) on ``data``. The only training loop.

    Args:
        net: what is trained; it is put in train mode.
        data: samples with their settings and random streams.
        loss: parts of the loss of a batch, by name; their sum is descended.
        given: what the loss needs of this client beside net and batch, its further arguments: tensors, nets that are not
            trained, numbers, and objects of these. Only what is given so, and not closed over, may differ from client to client
            where an engine carries out the trainings of many as one.
        optimizer: default, a fresh one of the settings.
        epochs: default, the settings' epochs or steps.
        batch_size: default, the settings'.
        draws: the batches, one or more, where these are drawn elsewhere; default, ``epochs`` passes of ``batch_size``.
        after_step: called after each step, e.g. to move an average of the weights.

    Returns:
        the sample-weighted mean of each part, and of their sum as ``loss``.

    Raises:
        TrainingError: naming who, the round, the epoch and the batch of the first loss that is not finite, or the weight that
            the last step left beyond all sense.
    """
    settings = data.work.settings
    if len(data) == 0:
        raise TrainingError(f"{data.work.where}: there are no samples to train on")
    net.train()
    passes = epochs or 1.0
    if draws is None:
        draws, passes = _drawn(data, epochs, batch_size or settings.batch_size)
    if can_meet():
        draws = list(draws)
        if (losses := fit_together(net, data, loss, given, optimizer, draws, passes, after_step)) is not None:
            return losses
    optimizer = optimizer or make_optimizer(net, data.work)
    logged: list[Tensor] = []
    sizes, alike = list[int](), Alike()
    for group in _groups(draws, settings.accumulate):
        for place, draw in enumerate(group):
            batch = data.batch(draw)
            with alike.batch(len(batch)):
                with data.work.autocast():
                    parts = loss(net, batch, *given)
                logged.append(descend(parts, optimizer, data.work, place=place, of=len(group)))
            sizes.append(len(batch))
        if after_step:
            after_step()
    losses = mean_losses([*parts, "loss"], torch.stack(logged), sizes, data.work.where, passes)
    check_weights(net, data.work.where)
    return losses


def _drawn(data: Split, epochs: int | None, batch_size: int) -> tuple[Iterable[Draw], float]:
    """The batches, of so many epochs or else as the settings say, and over how many epochs they go, for messages."""
    rng, settings = data.rng("batches"), data.work.settings
    if epochs:
        return data.draws(epochs=epochs, batch_size=batch_size, rng=rng), epochs
    return data.of_a_round(batch_size, rng), 1.0 if settings.steps else settings.epochs


def _groups(draws: Iterable[Draw], size: int) -> Iterator[list[Draw]]:
    """The batches of each step, drawn as they are needed."""
    rest = iter(draws)
    while group := list(islice(rest, size)):
        yield group


@torch.inference_mode()
def predict(
    function: Callable[[Any], Tensor], samples: Samples, work: Work, *, batch_size: int | None = None, side_by_side: int = 1
) -> Tensor:
    """``function`` of every sample's un-augmented inputs, in order. (M, ...) float32 on the CPU. Put nets in eval mode first.

    By default 512 samples at a time on a GPU, and on a CPU 128: larger activations are mapped afresh each time (up to half
    slower in float32). ``side_by_side`` batches are computed at a time, each as it is alone: the bytes stay the same. Only a
    function that keeps nothing from call to call may be, where nobody counts operations.
    """
    batch_size, alike = batch_size or (128 if work.device.type == "cpu" else 512), Alike()

    @torch.inference_mode()  # which is a thread's own, as autocast is
    def output(positions: Tensor) -> Tensor:
        with alike.batch(len(positions)), work.autocast():
            return function(Batch(samples, positions, work, 0).inputs).float().cpu()

    batches = torch.arange(len(samples)).split(batch_size) if len(samples) else ()
    if side_by_side == 1:
        outputs = [output(positions) for positions in batches]
    else:
        with ThreadPoolExecutor(side_by_side, initializer=torch.set_num_threads, initargs=(torch.get_num_threads(),)) as pool:
            outputs = list(pool.map(output, batches))
    return torch.cat(outputs) if outputs else torch.empty(0)
