"""What is changed in a replay: how uploads are coded, and what is made of them before the strategy's server half sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from fedkd.aggregate import REDUCTIONS, renormalise, stack, weighted_mean
from fedkd.base.errors import InputError, unknown
from fedkd.experiment.experiment import Experiment
from fedkd.knowledge import codecs
from fedkd.knowledge.knowledge import Knowledge
from fedkd.targets.rules import RULES, Evidence, rule_named

#: Fields by which strategies name their aggregator themselves.
OWN_FIELDS = ("aggregate", "aggregation", "aggregator")
#: What a table of answers about samples, or classes, may hold.
ANSWERS = ("logits", "probabilities")


@dataclass(frozen=True)
class Change:
    """What is other than it was; nothing is by default.

    Args:
        aggregator: a name of ``fedkd.aggregate.REDUCTIONS``: every client is taken to have uploaded what it makes of all
            uploads, so the strategy's own mean over clients gives it, and whatever the strategy does then is done to it. A
            strategy that names its aggregator in a field gets that field.
        target: the same with a name of ``fedkd targets``, of tables of logits or probabilities.
        codec: the codecs of uploads, in place of the experiment's.
        downlink: the codecs of the broadcast.
    """

    aggregator: str = ""
    target: str = ""
    codec: tuple[str, ...] = ()
    downlink: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.aggregator and self.target:
            raise InputError("an aggregator and a target are two answers to one question: give one of them")
        if self.aggregator and self.aggregator not in REDUCTIONS:
            raise unknown("aggregator", self.aggregator, REDUCTIONS)
        if self.target and self.target not in RULES:
            raise unknown("target", self.target, RULES)
        codecs.chain(self.codec, "codec")
        codecs.chain(self.downlink, "downlink")

    def of(self, experiment: Experiment) -> Experiment:
        """The experiment with it, as far as it is the experiment's to say. Raises InputError as an Experiment does."""
        strategy = experiment.strategy
        own = next((each.name for each in fields(strategy) if each.name in OWN_FIELDS), "")
        return (
            experiment.replace(strategy=replace(strategy, **{own: self.aggregator})) if self.aggregator and own else experiment
        )

    def puts_together(self, experiment: Experiment) -> bool:
        """Whether it makes one upload of all, in the place of the strategy's own mean."""
        return bool(self.target) or (bool(self.aggregator) and self.of(experiment) is experiment)

    def to(self, uploads: Mapping[int, Knowledge], experiment: Experiment, labels: Tensor | None) -> dict[int, Knowledge]:
        """The uploads as the server would have seen them.

        ``labels`` are those of the tables' rows, where they may be used. Raises InputError where these uploads are no matter
        for the aggregator or the target.
        """
        chain = codecs.chain(self.codec, "codec")
        read = {client: codecs.as_decoded(chain, upload) for client, upload in uploads.items()} if chain else dict(uploads)
        if self.target:
            return _all_alike(read, _targets(read, self.target, labels))
        if self.puts_together(experiment):
            return _all_alike(read, _aggregated(read, self.aggregator))
        return read


def check_put_together(uploads: Mapping[int, Knowledge], broadcast: Knowledge, name: str) -> None:
    """Raise InputError unless the server made one thing of many uploads; of weights, their mean.

    It may train a net on what the clients' nets say, of which no mean of weights is the like.
    """
    held = {key: tensor for upload in uploads.values() for key, tensor in upload.tensors.items()}
    only = "only a codec can be replayed"
    if not held:
        raise InputError(f"clients of {name} upload no tensors in this round: there is nothing to put together")
    if any(key in broadcast.tensors and broadcast.tensors[key].dim() > tensor.dim() for key, tensor in held.items()):
        raise InputError(f"{name} tells all clients what each of them said and puts nothing together: {only}")
    if not _averages(uploads, broadcast):
        raise InputError(f"the server of {name} does more with weights than average them: {only}")


def _averages(uploads: Mapping[int, Knowledge], broadcast: Knowledge) -> bool:
    """Whether the weights among the uploads, if there are any, are broadcast as their mean, by samples or by clients."""
    parts = {client: _floating_weights(upload) for client, upload in uploads.items()}
    names = next(iter(parts.values())).tensors
    if not names:
        return True
    if not all(part.tensors.keys() == names.keys() for part in parts.values()) or not names.keys() <= broadcast.tensors.keys():
        return False
    means = weighted_mean(parts), weighted_mean(parts, weights=[1.0] * len(parts))
    return any(
        all(torch.allclose(mean.tensors[key], broadcast.tensors[key], rtol=1e-5, atol=1e-7) for key in names) for mean in means
    )


def _floating_weights(upload: Knowledge) -> Knowledge:
    chosen = {key: upload.tensors[key] for key, space in upload.spaces.items() if space == "weights"}
    return Knowledge.of(
        "weights", {k: tensor for k, tensor in chosen.items() if tensor.is_floating_point()}, weight=upload.weight
    )


def _all_alike(uploads: Mapping[int, Knowledge], tensors: Mapping[str, Tensor]) -> dict[int, Knowledge]:
    return {client: replace(upload, tensors=tensors) for client, upload in uploads.items()}


def _aggregated(uploads: Mapping[int, Knowledge], name: str) -> dict[str, Tensor]:
    """What the aggregator makes of each tensor, (K, ...) -> (...): of weights all together, of tables row by row.

    Whole numbers among weights, BatchNorm's counters, have no mean: the largest is taken, as ``weighted_mean`` does.
    """
    spaces = next(iter(uploads.values())).spaces
    if others := sorted({space for space in spaces.values() if space not in ("weights", "embedding", *ANSWERS)}):
        raise InputError(
            f"aggregator {name}: uploads have {others[0]} beside their tables, as clients speak of different rows, and no row "
            "of one client answers that of another: only a codec can be replayed"
        )
    stacked = {key: _stacked(uploads, key) for key in spaces}
    numbers = [key for key, values in stacked.items() if spaces[key] == "weights" and values.is_floating_point()]
    found = {key: values.amax(0) for key, values in stacked.items() if not values.is_floating_point()}
    for key, values in stacked.items():
        if spaces[key] != "weights":
            table = REDUCTIONS[name](values if values.dim() > 2 else values[:, None])
            table = renormalise(table.clamp_min(0)) if spaces[key] == "probabilities" else table
            found[key] = table if values.dim() > 2 else table[0]
    if numbers:
        joined = torch.cat([stacked[key].double().flatten(1) for key in numbers], 1)  # (K, D)
        parts = REDUCTIONS[name](joined[:, None])[0].split([stacked[key][0].numel() for key in numbers])
        found |= {
            key: part.view(stacked[key].shape[1:]).to(stacked[key].dtype) for key, part in zip(numbers, parts, strict=True)
        }
    return {key: found[key] for key in spaces}


def _targets(uploads: Mapping[int, Knowledge], name: str, labels: Tensor | None) -> dict[str, Tensor]:
    """What the rule makes of the clients' tables (K, P, C), in the space in which they were uploaded."""
    tables = dict(next(iter(uploads.values())).spaces)
    flat = all(tensor.dim() == 2 for upload in uploads.values() for tensor in upload.tensors.values())
    if not tables or not set(tables.values()) <= set(ANSWERS) or not flat:
        raise InputError(f"target {name}: uploads are no tables of logits or probabilities, of which targets are made")
    rule, known = rule_named(name), {"weights"} | ({"labels"} if labels is not None and bool((labels >= 0).all()) else set())
    if missing := sorted(rule.needs - known):
        cure = ": their labels may not be used (data.public_labels)" if missing == ["labels"] else ""
        raise InputError(f"target {name} needs {missing[0]}, which a replay does not have{cure}")
    weights = torch.tensor([upload.weight for upload in uploads.values()], dtype=torch.float64)
    found = {}
    for key, space in tables.items():
        values = _stacked(uploads, key)
        logits = values if space == "logits" else values.clamp_min(torch.finfo(values.dtype).tiny).log()
        target = rule.function(Evidence(logits, labels=labels, weights=weights))
        found[key] = (target.logits() if space == "logits" else target.probabilities()).to(values.dtype)
    return found


def _stacked(uploads: Mapping[int, Knowledge], name: str) -> Tensor:
    try:
        return stack(uploads, name)
    except ValueError as error:
        raise InputError(f"uploads cannot be put together: {error}") from None
