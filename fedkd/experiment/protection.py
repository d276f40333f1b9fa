"""What leaves a client under [privacy]: tables of probabilities with noise, constants, and nothing else.

``epsilon`` covers all uploads of one client, from the first round on, towards whoever sees them, the server too. Its
neighbours are two worlds in which one client holds anything else instead of all that it holds (replacement); its unit is so
everything that one client holds, not one sample. Part by part of an upload:

    tables of probabilities    clipped and noised (``fedkd.knowledge.privacy.clip_and_noise``), counted, put back on the simplex
    counts                     all ones: nobody is told how many samples a client has, or of which classes
    weight                     1, the same for everybody
    metrics                    none: no losses, no seconds
    header, and on joining     what server and clients agree on before round 1, the round and the exchange
    an error's reason          stays at the client, in its own log
    anything else              refused, before round 1

Codecs come after the noise, and simulated attacks and faults too, so they tell nothing that is not noised. Not covered: that,
and when, a client answers or fails; what all agree on before (class names, the pixels' mean, public samples).

Evaluation: where clients run elsewhere, under Flower, they answer none, as the answer would be an exact count. In a simulation
of ours all data lie with the experimenter, who measures each client's accuracy: those numbers are no part of an upload, and
epsilon does not cover them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from fedkd.aggregate import nearest_on_simplex
from fedkd.base.errors import InputError
from fedkd.experiment.algorithm.sections import Privacy
from fedkd.knowledge.knowledge import Knowledge, TensorSpec, UpTo
from fedkd.knowledge.privacy import clip_and_noise

NOISED, MADE_CONSTANT = "probabilities", "counts"
KEY = "privacy.noise_multiplier"
CURE = "set it to 0, or take a strategy that sends tables of probabilities (see `fedkd strategies`)"
#: A table's name -> where its noise comes from; None is the operating system.
NoiseOf = Callable[[str], torch.Generator | None]


class ClientFailure(RuntimeError):
    """A client failed, and why may be told under [privacy] too: the text holds nothing of any data."""


def check_protected(name: str, schemas: Iterable[Mapping[str, TensorSpec]], *, partition: str) -> None:
    """Hold what the clients of a strategy upload against what noise is defined for.

    Args:
        name: of the strategy.
        schemas: of all uploads, any number of times each.
        partition: who holds what.

    Raises:
        InputError: something of it could leave without noise, or nothing of it would be noised.
    """
    specs = {(tensor, spec) for schema in schemas for tensor, spec in schema.items()}
    bare = sorted({spec.space for _, spec in specs} - {NOISED, MADE_CONSTANT})
    tables = [(tensor, spec) for tensor, spec in specs if spec.space == NOISED]
    if bare or not tables:
        what = f"{' and '.join(bare)}, which no mechanism is defined for" if bare else "nothing that can be noised"
        only = f"only tables of {NOISED} have one, and {MADE_CONSTANT} beside them are sent as ones"
        raise InputError(f"{KEY}: {name} uploads {what} ({only}): {CURE}")
    for tensor, spec in sorted(specs, key=lambda named: named[0]):
        if spec.optional or any(isinstance(side, UpTo) for side in spec.shape):
            raise InputError(f"{KEY}: each client of {name} decides how much of {tensor!r} it sends, which tells of it: {CURE}")
    if odd := sorted(tensor for tensor, spec in tables if not spec.dtype.is_floating_point or not spec.shape):
        raise InputError(f"{KEY}: {odd[0]!r} of {name} is no table of floating-point numbers, so no noise fits it: {CURE}")
    if partition == "shared":
        raise InputError(
            f'{KEY}: with data.partition = "shared" every client tells of the same samples, which no client\'s epsilon counts: '
            "set it to 0, or take another partition"
        )


def protected(upload: Knowledge, settings: Privacy, noise_of: NoiseOf) -> Knowledge:
    """What of this upload may leave its client, see the module.

    Raises:
        ClientFailure: it holds something that no noise is defined for. Names are told, values are not.
    """
    if bare := sorted(set(upload.spaces.values()) - {NOISED, MADE_CONSTANT}):
        raise ClientFailure(f"{KEY}: this upload holds {' and '.join(bare)}, for which no noise is defined, so it is not sent")
    if upload.header:
        facts = ", ".join(sorted(upload.header))
        raise ClientFailure(f"{KEY}: this upload's header says {facts}, for which no noise is defined, so it is not sent")
    tensors: dict[str, Tensor] = {}
    for name, tensor in upload.tensors.items():
        if upload.spaces[name] == MADE_CONSTANT:
            tensors[name] = torch.ones_like(tensor)
        else:
            multiplier, rng = settings.noise_multiplier, noise_of(name)
            noised = clip_and_noise(tensor, clip=settings.clip, noise_multiplier=multiplier, rng=rng)
            tensors[name] = nearest_on_simplex(noised)
    return Knowledge(tensors, upload.spaces)


def agreed_facts(facts: Mapping[str, str], settings: Privacy, *, simulated: bool) -> dict[str, str]:
    """The facts on its data that a client tells on joining: under [privacy], outside a simulation, no hash of its own data."""
    kept_back = ("content_hash",) if settings.noise_multiplier and not simulated else ()
    return {name: fact for name, fact in facts.items() if name not in kept_back}


@contextmanager
def reasons_stay(where: str) -> Iterator[None]:
    """If something goes wrong in the block, this machine's log says what, and the server learns only that it did."""
    try:
        yield
    except ClientFailure:
        raise
    except (Exception, SystemExit):
        logging.getLogger("fedkd").exception("%s failed", where)
        raise ClientFailure(f"{where} failed: as [privacy] is on, the reason stands in its own log only") from None
