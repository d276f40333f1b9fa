"""Which keys of an experiment do nothing in it, as far as it shows by itself: section by section, each with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from fedkd.data.partition import EACH_ITS_OWN
from fedkd.experiment import registry
from fedkd.experiment.algorithm.algorithm import USABLE
from fedkd.experiment.algorithm.conditions import why_idle
from fedkd.experiment.algorithm.participation import attackers, cohort_size, enough_of
from fedkd.experiment.algorithm.sections import SECTIONS
from fedkd.experiment.unused import Unused
from fedkd.experiment.values import ExperimentValues
from fedkd.knowledge.attacks import ATTACKS


def unused_keys(experiment: ExperimentValues) -> Iterator[Unused]:
    """All keys that do nothing in this experiment, as far as it shows by itself."""
    name = registry.name_of(type(experiment.strategy))
    yield from _of_training(experiment)
    yield from _of_clients(experiment)
    yield from _of_clock(experiment)
    yield from _of_asynchrony(experiment)
    yield from _of_stopping(experiment)
    yield from _of_data(experiment, name)
    yield from _of_nets(experiment, name)
    yield from _of_attack(experiment)
    if not experiment.privacy.noise_multiplier:
        why, control = "privacy.noise_multiplier is 0, which is off", "noise_multiplier" in experiment.privacy.model_fields_set
        for key in ("clip", "delta"):
            yield Unused(f"privacy.{key}", why, "set it, or leave this out", harmless=control)
    yield from _of_strategy(experiment)


def uses(experiment: ExperimentValues) -> set[str]:
    """Which of USABLE the strategy uses here; all of them where it does not say, as one of the user's own may."""
    strategy, needs = experiment.strategy, experiment.strategy.needs
    if needs.uses is None and not _shipped(experiment):
        return set(USABLE)
    if strategy.is_baseline:
        return {"public", "public_labels", "validation", *(needs.uses or ())}
    used = {*(needs.uses or ()), *(need for need in ("public", "validation", "server_net") if getattr(needs, need))}
    return {name for name in used if not why_idle(experiment.strategy, experiment, name)}


def idle_engine(experiment: ExperimentValues) -> Iterator[Unused]:
    """The keys of [engine] that do nothing on the engine that it names."""
    if experiment.engine.name != "ray":
        why = f'engine.name is "{experiment.engine.name}", which is this process'
        yield Unused("engine.address", why, 'set engine.name = "ray", or leave it out')
        yield Unused("engine.actors", why, harmless=True)


def _of_training(experiment: ExperimentValues) -> Iterator[Unused]:
    train, rounds = experiment.train, experiment.rounds
    if train.schedule != "step":
        why = f'train.schedule is "{train.schedule}", and only "step" has it'
        for key in ("milestones", "gamma"):
            yield Unused(f"train.{key}", why, 'set train.schedule = "step", or leave this out')
    elif not train.milestones:
        yield Unused("train.schedule", "there are no train.milestones", "set them, or leave it out")
    elif min(train.milestones) >= rounds:
        yield Unused("train.milestones", f"there are only {rounds} rounds", harmless=True)
    if train.warm_up >= rounds and train.schedule != "constant":
        yield Unused("train.schedule", f"the warm-up takes all {rounds} rounds", harmless=True)
    if train.optimizer != "sgd":
        yield Unused("train.momentum", f"{train.optimizer} has none of this name")
        yield Unused("train.nesterov", f"{train.optimizer} has no such momentum")
    if train.steps:
        yield Unused("train.epochs", f"train.steps is {train.steps}, and takes its place")
    if _shipped(experiment) and not experiment.strategy.needs.labels:
        for key in ("label_smoothing", "class_weights"):
            yield Unused(f"train.{key}", f"{registry.name_of(type(experiment.strategy))} has no cross-entropy with labels")
    if experiment.rounds == 1:
        yield Unused("train.final_temperature", "the first round is the last", harmless=True)


def _of_clients(experiment: ExperimentValues) -> Iterator[Unused]:
    clients, asked = experiment.data.clients, cohort_size(experiment)
    if experiment.participation not in ("async", 1) and asked == clients:
        yield Unused("participation", f"that of {clients} clients is all of them", harmless=True)
    if experiment.enough < 1 and enough_of(experiment, asked) == asked:
        yield Unused("enough", f"that of {asked} clients is all of them", harmless=True)
    late = experiment.faults.straggle or experiment.clock.deadline
    if experiment.late_rounds and not late and enough_of(experiment, asked) == asked:
        of = "clock.deadline" if experiment.clock.on else "faults.straggle"
        why = f"in a simulation without {of}, and with enough for all, only who outlasts timeout is late"
        yield Unused("late_rounds", why, harmless=True)


def _of_clock(experiment: ExperimentValues) -> Iterator[Unused]:
    clock = experiment.clock
    if not clock.on:
        for key in ("deadline", "server_gflops", "profiles"):
            yield Unused(f"clock.{key}", "there is no clock", "say what clients compute with, in clock.devices or clock.table")
        return
    yield Unused("faults.straggle", "there is a [clock], which says who is late", "set clock.deadline, or enough")
    if not clock.profiles.keys() & clock.devices.keys():
        yield Unused("clock.profiles", "clock.devices names none of them", harmless=True)


def _of_asynchrony(experiment: ExperimentValues) -> Iterator[Unused]:
    if experiment.participation == "async":
        why = 'with participation = "async" no exchange is waited for'
        for key in ("enough", "late_rounds", "clock.deadline"):
            yield Unused(key, why)
    else:
        for key in SECTIONS["asynchrony"].model_fields:
            yield Unused(f"asynchrony.{key}", 'participation is not "async"', 'set participation = "async", or leave this out')


def _of_stopping(experiment: ExperimentValues) -> Iterator[Unused]:
    stop = experiment.stop
    if not stop.looks:
        yield Unused("stop.metric", "neither stop.accuracy nor stop.patience looks at it", "set one of them, or leave this out")
    if not stop.patience:
        yield Unused("stop.improvement", "there is no stop.patience", "set it, or leave this out")
    elif stop.patience >= experiment.rounds:
        yield Unused("stop.patience", f"there are only {experiment.rounds} rounds", harmless=True)
    if not experiment.clock.on:
        yield Unused("stop.simulated_seconds", "there is no clock", "set clock.devices, or stop.seconds")


def _of_data(experiment: ExperimentValues, name: str) -> Iterator[Unused]:
    data, used = experiment.data, uses(experiment)
    if callable(data.source) or ":" in data.source:
        for key in ("path", "layout"):
            yield Unused(f"data.{key}", "the function of data.source reads the data itself")
    if data.partition != EACH_ITS_OWN:
        yield Unused("data.classes", f'data.partition is "{data.partition}", and the data set names its classes')
    if not data.tokens and data.source != "word_languages":
        yield Unused("data.length", "it counts tokens of text, and data.tokens is not set", "set data.tokens, or leave it out")
    if not (data.public or data.public_source):
        yield Unused("data.public_labels", "there is no public set", "set data.public to its size, or leave this out")
    elif "public_labels" not in used:
        yield Unused("data.public_labels", f"{name} uses no labels of public samples")
    held_out = "only holds samples out here, for nobody"
    if "public" not in used:
        why = f"{name} uses no public samples"
        for key in ("public", "public_source"):
            yield (
                Unused(f"data.{key}", why) if data.public_source else Unused(f"data.{key}", why, harmless=True, effect=held_out)
            )
    if "validation" not in used:
        yield Unused("data.validation", f"{name} uses no validation set", harmless=True, effect=held_out)
    if "views" not in used:
        yield Unused("data.views", f"{name} shows its nets the samples themselves here")
    if "representations" not in used:
        nets = "classifiers" if experiment.strategy.needs.labels else "encoders at clients only"
        for key in [key for key in SECTIONS["evaluation"].model_fields if key not in used]:
            yield Unused(f"evaluation.{key}", f"{name} trains {nets}, and this is about an encoder at the server")


def _of_nets(experiment: ExperimentValues, name: str) -> Iterator[Unused]:
    used, taken = uses(experiment), set(experiment.architectures)
    for key in ("server_net", "shared_net"):
        if key not in used:
            place = "at the server" if key == "server_net" else "that all have in common"
            alike = experiment.server_net in (experiment.architectures[0], "") and key == "server_net"
            yield Unused(key, f"{name} trains no net {place} but the clients' own", harmless=alike)
        else:
            taken.add(getattr(experiment, key))
    if experiment.shared_net and "shared_net" in (experiment.strategy.needs.uses or ()):
        yield Unused("server_net", f"{name} has shared_net for it", harmless=True)
    for value in vars(experiment.strategy).values():  # some name further nets
        taken |= set(value) if isinstance(value, tuple) else {value} if isinstance(value, str) else set()
    for net in [net for net in experiment.net_options if net not in taken]:
        yield Unused(f"net_options.{net}", "nobody has this net", harmless=True)


def _of_attack(experiment: ExperimentValues) -> Iterator[Unused]:
    attack, clients = experiment.attack, experiment.data.clients
    if not attack.name:
        yield Unused("attack.share", "no attack.name says how they attack", f"set it to one of {', '.join(ATTACKS)}")
        yield Unused("attack.scale", "there is no attack.name")
        return
    if not attack.share:
        control = "share" in attack.model_fields_set
        yield Unused("attack.name", "attack.share is 0", "set the share of the clients that attack", harmless=control)
    elif not attackers(experiment):
        yield Unused("attack.share", f"that of {clients} clients is none", f"set it to {1 / clients:.2g} or more")
    elif ATTACKS[attack.name].relabels and (why := _labels_idle(experiment)):
        yield Unused("attack.name", f"{attack.name} changes labels, and {why}", "take another, or leave it out")
    if attack.share and not ATTACKS[attack.name].scaled:
        yield Unused("attack.scale", f"{attack.name} has none")


def _of_strategy(experiment: ExperimentValues) -> Iterator[Unused]:
    """The strategy's own fields, and the keys of [train] that it names. The first condition that holds is told."""
    for key in (name for name in experiment.strategy.idle if name.startswith("train.")):
        for condition in experiment.strategy.idle[key]:
            if why := condition.explain(experiment.strategy, experiment):
                yield Unused(key, why, harmless=condition.harmless)
    for field in fields(experiment.strategy):
        for condition in experiment.strategy.idle.get(field.name, ()):
            if why := condition.explain(experiment.strategy, experiment):
                yield Unused(f"strategy.{field.name}", why, harmless=condition.harmless)
                if field.name == "temperature":
                    yield Unused("train.final_temperature", why, harmless=condition.harmless)
                break


def _labels_idle(experiment: ExperimentValues) -> str:
    """Why no client trains on its labels, where that is so."""
    name = registry.name_of(type(experiment.strategy))
    if _shipped(experiment) and not experiment.strategy.needs.labels:
        return f"{name} trains without labels"
    return f"with {name} no client trains a net here" if why_idle(experiment.strategy, experiment, "labels") else ""


def _shipped(experiment: ExperimentValues) -> bool:
    """Whether the strategy is one of ours, of which all is known."""
    return type(experiment.strategy).__module__.startswith("fedkd.strategies.")
