"""What an experiment does to a client beside the algorithm: noise for privacy, simulated faults, attacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch

from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.participation import attackers, draw_fault
from fedkd.experiment.algorithm.settings import Settings
from fedkd.experiment.protection import ClientFailure, protected
from fedkd.knowledge.collusion import collude
from fedkd.knowledge.knowledge import Knowledge


def mislabel(client: Client) -> None:
    """Change the training labels of a client whose attack does so; all other clients keep theirs."""
    experiment = client.experiment
    if client.id not in attackers(experiment):
        return
    from fedkd.knowledge.attacks import ATTACKS

    samples = client.train_samples
    labels = samples.labels.clone()
    rng = client.lasting_rng("mislabelled")
    labels[samples.indices] = ATTACKS[experiment.attack.name].labels(labels[samples.indices], client.classes, rng)
    client.train_samples = replace(samples, labels=labels)


def under_adversity(client: Client, update: Callable[[Client, Knowledge], Knowledge], broadcast: Knowledge) -> Knowledge:
    """This client's upload, with the privacy noise, the attack and the fault that the experiment has for it."""
    experiment = client.experiment
    fault = draw_fault(experiment, client.round, client.id)
    if fault == "crash":
        raise ClientFailure("crashed (simulated)")
    upload = update(client, broadcast)
    if experiment.privacy.noise_multiplier:
        upload = protected(upload, experiment.privacy, partial(_noise_of, client))
    if client.id in attackers(experiment):
        from fedkd.knowledge.attacks import ATTACKS

        attack, rng = ATTACKS[experiment.attack.name], client.rng("attack")
        upload = attack.upload(upload, broadcast, scale=experiment.attack.scale, rng=rng)
    if fault == "nan":
        ruined = {name: torch.full_like(t, torch.nan) if t.is_floating_point() else t for name, t in upload.tensors.items()}
        upload = replace(upload, tensors=ruined)
    return upload


def after_collusion(experiment: Settings, uploads: Mapping[int, Knowledge]) -> Mapping[int, Knowledge]:
    """The uploads of an exchange, in which attackers that collude have answered by what the honest ones said."""
    from fedkd.knowledge.attacks import ATTACKS

    attack = ATTACKS.get(experiment.attack.name)
    if attack is None or attack.collusion is None:
        return uploads
    return collude(attack.collusion, uploads, attackers(experiment))


def _noise_of(client: Client, table: str) -> torch.Generator | None:
    """The generator of this table's noise: seeded in a simulation, which can be repeated; elsewhere None: secret."""
    return client.rng(f"privacy {table}") if client.simulated else None
