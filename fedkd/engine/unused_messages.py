"""Keys that find nothing to act on: codecs, attacks and faults by what clients will send, data.normalise by the samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from fedkd.base.errors import InputError
from fedkd.base.randomness import seeded
from fedkd.engine.rehearsal import rehearse
from fedkd.experiment import registry
from fedkd.experiment.algorithm.algorithm import Algorithm
from fedkd.experiment.algorithm.device import device_of
from fedkd.experiment.algorithm.server import Server
from fedkd.experiment.algorithm.upload_schemas import upload_schemas
from fedkd.experiment.experiment import Experiment
from fedkd.experiment.unused import Unused, given_keys, tell
from fedkd.knowledge.attacks import ATTACKS
from fedkd.knowledge.codecs import Codec, chain
from fedkd.knowledge.codecs.whole import Whole
from fedkd.knowledge.knowledge import Knowledge, TensorSpec, UpTo
from fedkd.knowledge.memory import Memory


def tell_idle_messages(experiment: Experiment) -> None:
    """Tell the user of keys about messages that do nothing in their experiment. See ``fedkd.experiment.unused``.

    Raises:
        InputError: for the first one that the user set, in one line; and for nets and data that cannot be used at all.
    """
    given = given_keys(experiment, None)
    asked = {"uplink", "downlink", "attack.name", "attack.scale", "faults.nan", "guard.step_ratio", "data.normalise"} & given
    unseen = "evaluate_clients" in given and not experiment.evaluate_clients
    if (asked or unseen) and experiment.clients_are_here:
        functions, federation = experiment.functions(), experiment.federation()
        server = Server(experiment, functions, federation, Memory(), device_of(experiment.engine))
        rehearse(experiment.strategy, server)
        with seeded(0):
            tell(experiment, asked, idle_messages(experiment.strategy, server))
            if unseen:
                _refuse_nets_at_clients_only(experiment.strategy, server)
        server.release()


def _refuse_nets_at_clients_only(strategy: Algorithm, server: Server) -> None:
    """Raise InputError where the server has nothing to evaluate, and will have nothing: uploaded nets may yet be its own."""
    broadcast = strategy.first_broadcast(server)
    if not isinstance(broadcast, Knowledge) or strategy.predictors(server, broadcast):
        return
    if not any(spec.space == "weights" for schema in upload_schemas(strategy, server) for spec in schema.values()):
        name = registry.name_of(type(strategy))
        raise InputError(f"evaluate_clients = 0: {name} has nets at clients only, so nothing would be evaluated: raise it")


def idle_messages(strategy: Algorithm, server: Server) -> Iterator[Unused]:
    """The keys about messages that do nothing: codecs, attacks, faults and limits without a target."""
    experiment = server.experiment
    first = strategy.first_broadcast(server)
    broadcasts = [first] if isinstance(first, Knowledge) else list(first.values())
    kinds = {
        repr(sorted(schema.items())): schema for schema in upload_schemas(strategy, server)
    }  # most clients and exchanges are alike
    uploads = [_example(schema) for schema in kinds.values()]
    sent = {upload.spaces[name] for upload in uploads for name, tensor in upload.tensors.items() if tensor.is_floating_point()}
    what_is_sent = f"clients send {', '.join(sorted(sent)) or 'no tensors'} here"
    nothing_down = strategy.sends.endswith(("nothing", "nothing down"))
    for key, examples in (("uplink", uploads), ("downlink", broadcasts if nothing_down else [*broadcasts, *uploads])):
        # What is broadcast later is seldom of another kind than first broadcast and uploads; where these are empty, who knows.
        known = key == "uplink" or nothing_down or any(example.tensors for example in examples)
        names = getattr(experiment, key)
        if idle := [name for name in codes_nothing(names, key, examples) if known]:
            what = "nothing is broadcast here" if key == "downlink" and nothing_down else what_is_sent
            yield Unused(key, f"{what}, and {idle[0]} leaves what is sent as it is")
    if attack := ATTACKS.get(experiment.attack.name):
        changes = f"{experiment.attack.name} changes {', '.join(sorted(attack.spaces))}"
        if not attack.relabels and not attack.spaces & sent:
            yield Unused("attack.name", f"{changes}, and {what_is_sent}", "take another, or leave it out")
        elif attack.collusion and not attack.spaces & of_one_size(kinds.values()):
            why = f"{changes} of which all clients send as many rows, and here each chooses its own"
            yield Unused("attack.name", why, "take another, or leave it out")
        if not attack.scaled & sent:
            yield Unused("attack.scale", f"{experiment.attack.name} has none for what it changes here")
    if not sent:
        yield Unused("faults.nan", what_is_sent)
    source = server.federation.source
    if not len(source.kind.measure(source.train_inputs, torch.arange(min(2, len(source.train_labels)))).mean):
        yield Unused("data.normalise", f"samples of kind {source.kind.name!r} are not normalised")
    if "weights" not in sent:
        yield Unused("guard.step_ratio", f"{what_is_sent}, and a step is one of weights")


def of_one_size(schemas: Iterable[Mapping[str, TensorSpec]]) -> set[str]:
    """The spaces of tensors whose size is not left to the client."""
    specs = (spec for schema in schemas for spec in schema.values())
    return {spec.space for spec in specs if not any(isinstance(side, UpTo) for side in spec.shape)}


def codes_nothing(names: Sequence[str], key: str, examples: Sequence[Knowledge]) -> list[str]:
    """The codecs of the chain that change none of the examples. "bits32" does so on purpose and is not among them."""
    codecs = chain(names, key)
    active = {number for example in examples for number in _active(codecs, example)}
    return [name for number, name in enumerate(names) if number not in active and not isinstance(codecs[number], Whole)]


def _active(codecs: Sequence[Codec], message: Knowledge) -> Iterator[int]:
    for number, codec in enumerate(codecs):
        coded = codec.encode(message, message if codec.needs_base else None)
        if coded.header != message.header:
            yield number
        message = coded


def _example(schema: Mapping[str, TensorSpec]) -> Knowledge:
    """The plainest upload of a schema: of rank one, constant, rows of probabilities uniform."""
    tensors = {name: _constant(spec) for name, spec in schema.items()}
    return Knowledge(tensors, {name: spec.space for name, spec in schema.items()})


def _constant(spec: TensorSpec) -> Tensor:
    shape = [side.most if isinstance(side, UpTo) else side for side in spec.shape]
    value = 1 / shape[-1] if spec.space == "probabilities" and shape and shape[-1] else 0.0
    return torch.full(shape, value).to(spec.dtype)
