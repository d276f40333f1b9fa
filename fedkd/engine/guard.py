"""The guard: every upload is checked before any arithmetic. A bad one is left out; the round goes on without its client."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from fedkd.data import Federation
from fedkd.data.partition import EACH_ITS_OWN
from fedkd.engine.client_metrics import check_metrics
from fedkd.engine.outliers import too_far, too_heavy
from fedkd.experiment.algorithm.algorithm import Algorithm
from fedkd.experiment.algorithm.sections import Guarding, Privacy
from fedkd.experiment.algorithm.server import Server
from fedkd.knowledge.knowledge import MAX_MAGNITUDE, Knowledge, TensorSpec, UpTo

#: No client works longer on one exchange, in seconds: thirty years.
MAX_SECONDS = 1e9
#: No upload counts for more than so many samples.
MAX_WEIGHT = 1e12
#: How many bytes a message may have beyond what its schema takes: array headers, codecs that grow small tensors, facts.
SLACK_BYTES = 65_536
#: How many bytes a tensor may take beside the arrays: so many times its name, and so many bytes: lines of a manifest and of
#: the notes of a chain of codecs.
LINES, LINE_BYTES = 16, 1024
#: By how much a row of probabilities may miss the sum of one: half precision does.
TOLERANCE = 1e-2


#: Spaces whose numbers lie in a range.
_RANGED = ("probabilities", "labels", "counts")


class Rejected(ValueError):
    """An upload that must not be used; the message is the reason shown in the metrics."""


@dataclass(frozen=True)
class Guard:
    """All that an upload of one exchange must be."""

    schema_of: Callable[[int], Mapping[str, TensorSpec]]
    check: Callable[[Knowledge], None]  # what the strategy itself asks of an upload
    samples_of: Callable[[int], int | None]  # how many training samples a client has, where that is known
    sent_to: Callable[[int], Knowledge]  # what a client was sent
    common_ground: Mapping[str, str]
    classes: int
    limits: Guarding

    def most_bytes(self, client: int) -> int:
        """Bytes that the arrays of this client's upload may have."""
        return 2 * sum(spec.raw_bytes for spec in self.schema_of(client).values()) + SLACK_BYTES

    def most_facts(self, client: int) -> int:
        """Bytes that may stand beside them: manifest, header and metrics."""
        return sum(LINES * len(name) + LINE_BYTES for name in self.schema_of(client)) + SLACK_BYTES

    def inspect(self, client: int, upload: Knowledge, *, round: int, exchange: int) -> None:
        """Raise ValueError (``Rejected``, or the strategy's own) with the first reason why this upload must not be used."""
        check_header(upload, round=round, exchange=exchange, common_ground=self.common_ground)
        check_upload(upload, self.schema_of(client), classes=self.classes)
        check_metrics({name: value for name, value in upload.metrics.items() if name != "seconds"})
        if not 0 <= (seconds := upload.metrics.get("seconds", 0.0)) <= MAX_SECONDS:
            raise Rejected(f"it took {seconds} seconds")
        if (most := self.samples_of(client)) is not None and self.limits.weight_ratio:
            check_weight(upload, most)
        self.check(upload)

    def outliers(self, uploads: Mapping[int, Knowledge]) -> dict[int, str]:
        """Which of a round's uploads, each legal for itself, stand out too far from the others -> why."""
        unknown = {client: upload for client, upload in uploads.items() if self.samples_of(client) is None}
        reasons = too_heavy(unknown, self.limits.weight_ratio) if self.limits.weight_ratio else {}
        if self.limits.step_ratio:
            reasons |= too_far(uploads, {client: self.sent_to(client) for client in uploads}, self.limits.step_ratio)
        return reasons


def common_ground(strategy: Algorithm, privacy: Privacy, federation: Federation) -> dict[str, str]:
    """What all nodes must have in common, or their tables would mean different things: classes, public set, noise."""
    public = {"public_set": federation.public_hash} if strategy.needs.public else {}
    noise = {"noise": privacy.noise} if privacy.noise else {}
    return {"label_space": federation.label_space, **public, **noise}


def guard_of(strategy: Algorithm, server: Server, *, simulated: bool, sent_to: Callable[[int], Knowledge]) -> Guard:
    """The guard of the exchange at hand.

    Args:
        strategy: whose uploads.
        server: it stands in that exchange.
        simulated: whether the clients' data are those of the server's own federation, so that their sizes are known. Where each
            has its own, they are as told when it joined.
        sent_to: what a client was sent.
    """
    experiment = server.experiment
    known = bool(server.sizes) if experiment.data.partition == EACH_ITS_OWN else simulated
    return Guard(
        schema_of=lru_cache(maxsize=None)(lambda client: strategy.upload_schema(server, client)),
        check=lambda upload: strategy.check_upload(server, upload),
        samples_of=lambda client: server.sizes[client] if known else None,
        sent_to=sent_to,
        common_ground=common_ground(strategy, experiment.privacy, server.federation),
        classes=server.classes,
        limits=experiment.guard,
    )


def check_weight(upload: Knowledge, samples: int) -> None:
    """Check a claimed weight where it is known how many training samples the client has. Raises Rejected."""
    if upload.weight > max(1, samples):
        claim = f"it claims a weight of {upload.weight:g}, it has {samples} training samples"
        raise Rejected(f"{claim} (guard.weight_ratio = 0 takes any weight)")


def check_header(upload: Knowledge, *, round: int, exchange: int, common_ground: Mapping[str, str]) -> None:
    """Check that an upload answers this round and exchange, and speaks of the same classes and the same public set.

    Raises:
        Rejected: with the first reason found.
    """
    answered = [upload.header.get("round"), upload.header.get("exchange")]
    if answered != [round, exchange] or not all(type(number) is int for number in answered):
        raise Rejected(f"it answers round {upload.header.get('round')}, exchange {upload.header.get('exchange')}")
    for name, expected in common_ground.items():
        if (theirs := upload.header.get(name)) != expected:
            difference = f"its {name.replace('_', ' ')} is {theirs or 'not named'}, the server's is {expected}"
            raise Rejected(f"{difference}: give both the same data and experiment")


def check_upload(upload: Knowledge, schema: Mapping[str, TensorSpec], *, classes: int) -> None:
    """Check names, dtypes, exact shapes, spaces, values and weight of one upload.

    Raises:
        Rejected: with the first reason found.
    """
    needed = {name for name, spec in schema.items() if not spec.optional}
    if odd := sorted((needed - upload.tensors.keys()) | (upload.tensors.keys() - schema.keys()))[:3]:
        raise Rejected(f"its tensors are not those of the schema: {', '.join(odd)} missing or unexpected")
    sizes: dict[str, int] = {}
    for name, tensor in upload.tensors.items():
        spec = schema[name]
        _check_shape(name, tensor, spec, sizes)
        if tensor.dtype != spec.dtype:
            raise Rejected(f"{name} has dtype {tensor.dtype}, expected {spec.dtype}")
        if upload.spaces[name] != spec.space:
            raise Rejected(f"{name} holds {upload.spaces[name]}, expected {spec.space}")
    if not _are_sane(upload, schema):
        for name, tensor in upload.tensors.items():
            _check_values(name, tensor, schema[name], classes)
    if not 1 / MAX_WEIGHT <= upload.weight <= MAX_WEIGHT:
        raise Rejected(f"its weight {upload.weight:g} is not a positive number of at most {MAX_WEIGHT:g}")


def _are_sane(upload: Knowledge, schema: Mapping[str, TensorSpec]) -> bool:
    """Whether all values are sure to be fine, by one look at the array that the tensors came in. False: look at each."""
    tensors = upload.tensors
    array = next((tensor._base for tensor in tensors.values()), None)
    if array is None or not array.is_floating_point() or not array.numel():
        return False
    for name, tensor in tensors.items():
        spec = schema[name]
        if tensor._base is not array or tensor.dtype != array.dtype or spec.low is not None or spec.space in _RANGED:
            return False
    low, high = _extremes(array)
    return low >= -MAX_MAGNITUDE and high <= MAX_MAGNITUDE


def _check_shape(name: str, tensor: Tensor, spec: TensorSpec, sizes: dict[str, int]) -> None:
    """The exact shape; ``sizes`` are those that the sender chose so far, which must agree."""
    fits = len(tensor.shape) == len(spec.shape)
    for side, size in zip(spec.shape, tensor.shape, strict=False):
        if isinstance(side, UpTo):
            fits = fits and size <= side.most and sizes.setdefault(side.name, size) == size
        else:
            fits = fits and size == side
    if not fits:
        expected = ", ".join(f"{s.name} (at most {s.most})" if isinstance(s, UpTo) else str(s) for s in spec.shape)
        raise Rejected(f"{name} has shape {tuple(tensor.shape)}, expected ({expected})")


def _without_own(tensor: Tensor, spec: TensorSpec) -> Tensor:
    """The tensor, with 0 where it holds what no trained net does, just as the server's own net does in that place."""
    assert spec.own is not None
    own = spec.own.to(tensor.device)
    same = (tensor == own) | (tensor.isnan() & own.isnan())
    return tensor.masked_fill(same & ~(own.abs() <= MAX_MAGNITUDE), 0.0)


def _extremes(tensor: Tensor) -> tuple[float, float]:
    low, high = tensor.aminmax() if tensor.is_floating_point() else (tensor.min(), tensor.max())
    return low.item(), high.item()


def _check_values(name: str, tensor: Tensor, spec: TensorSpec, classes: int) -> None:
    """Finite, of a sane size, and in the range that the space has."""
    if not tensor.numel():
        return
    low, high = _extremes(tensor)
    floating = tensor.is_floating_point()
    if floating and spec.own is not None and not (low >= -MAX_MAGNITUDE and high <= MAX_MAGNITUDE):
        low, high = _extremes(tensor := _without_own(tensor, spec))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise Rejected(f"{name} holds a value that is not finite")
    if floating and max(-low, high) > MAX_MAGNITUDE:
        raise Rejected(f"{name} holds {max(low, high, key=abs):g}, beyond {MAX_MAGNITUDE:g}")
    space = spec.space
    if spec.low is not None and low < spec.low:
        raise Rejected(f"{name} holds {low:g}, below {spec.low:g}")
    if space == "labels" and not (low >= 0 and high < classes):
        raise Rejected(f"{name} names class {low if low < 0 else high:g} of {classes}")
    if space == "counts" and low < 0:
        raise Rejected(f"{name} counts {low:g}")
    if space == "probabilities":
        sums = tensor.double().sum(-1)
        # A row of zeros says nothing of its sample or class.
        if low < -TOLERANCE or not bool((((sums - 1).abs() <= TOLERANCE) | (tensor == 0).all(-1)).all()):
            raise Rejected(f"{name} holds a row that is no probability distribution")
