"""The audit of a run: attacks on the very tables that its clients uploaded, and on these as defences would have sent them.

The attacker sees what the server sees: each client's table of logits or probabilities on public samples, which it knows
too. It knows the experiment, and can draw samples like the clients': it runs the same experiment on the same samples dealt
out otherwise (``shadow_run``), so of those clients it knows who trained on what. For membership it makes a surrogate of every
client's net from the client's table, and holds how sure that is of a sample's label against the shadows' (``membership``).
Beside it stands what an attacker gets that has the clients' own nets answer: one that puts the sample among the public ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedkd.base.errors import InputError
from fedkd.base.inputs import Inputs, each
from fedkd.base.randomness import generator, torch_threads
from fedkd.data.dealt_out import DealtOut
from fedkd.data.samples import Samples
from fedkd.engine.audit.label_shares import Leakage, leakage
from fedkd.engine.audit.membership import Attack, attack, likelihood_ratios, log_odds
from fedkd.engine.audit.shadows import Told, answers_of, dealt_anew, public_rows, shadow_run, tables_in, told_by
from fedkd.engine.audit.surrogate import smoother
from fedkd.engine.audit.views import COARSE, EXACT, VIEWS, as_logits
from fedkd.engine.recording import identity_of
from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.device import device_of
from fedkd.experiment.algorithm.functions import Functions
from fedkd.experiment.algorithm.net_shares import is_given
from fedkd.experiment.algorithm.server import Server
from fedkd.experiment.experiment import Experiment
from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.memory import Memory
from fedkd.results.identity import EXPERIMENT, flat_experiment, refuse_other
from fedkd.results.place import refuse_without_run
from fedkd.results.uploads import read_tables, upload_files

AS_UPLOADED, QUERIED = "as uploaded", "the clients' own nets, queried"


@dataclass(frozen=True)
class Audit:
    """What was measured, by the name of what the attacker was given."""

    round: int
    clients: int
    shadows: int
    shadow_runs: int
    membership: Mapping[str, Attack]
    label_shares: Mapping[str, Leakage]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        attacks = {name: found.to_json() for name, found in self.membership.items()}
        leaks = {name: found.to_json() for name, found in self.label_shares.items()}
        sizes = {"round": self.round, "clients": self.clients, "shadows": self.shadows, "shadow_runs": self.shadow_runs}
        return {**sizes, "membership": attacks, "label_shares": leaks}


def audit(
    path: Path,
    experiment: Experiment | None = None,
    *,
    shadow_runs: int = 16,
    on_shadow: Callable[[int], None] = lambda number: None,
) -> Audit:
    """Attack the last uploads of a finished run.

    Args:
        path: the run's directory, with ``uploads/``.
        experiment: what was run; default, what the directory says. It must be given where nets or data are functions.
        shadow_runs: how often the experiment is run for the attacker's sake, each with as many shadow clients as the run has.
        on_shadow: called with 1, 2 ... as each of these runs is done.

    Raises:
        InputError: there is no run, it kept no uploads, they are no tables on public samples, or its data are elsewhere.
    """
    if shadow_runs < 2:
        raise InputError(f"shadow runs: {shadow_runs} give no spread to hold a client against: take 2 or more, 16 as a rule")
    refuse_without_run(path)
    files = upload_files(path)
    if not files:
        raise InputError(f"{path} kept no uploads: run it again with record.uploads = true")
    said = [text for key, value in flat_experiment(path).items() for text in (key.rpartition(".")[2], str(value))]
    if experiment is None and any(map(is_given, said)):
        script = "from fedkd.engine.audit.audit import audit, and call it there with the experiment"
        raise InputError(f"{path}: its nets or data are functions that only its script has: {script}")
    experiment = experiment or Experiment.from_toml(path / EXPERIMENT)
    functions = experiment.functions()
    federation = experiment.run_federation
    if not isinstance(federation, DealtOut):
        raise InputError(
            f"{path}: an audit deals samples anew, and with data.partition = 'own' none is dealt: audit a run on joined data"
        )
    if federation.source.kind.name == "tokens":
        raise InputError(f"{path}: a surrogate is made of samples of numbers, and these are tokens: no audit is made of them")
    refuse_other(path, identity_of(experiment, functions))
    with torch_threads(experiment.engine.num_cpus):
        round, targets = _targets(path, files, experiment, functions, federation)
        shadows: list[Told] = []
        for number in range(1, shadow_runs + 1):
            shadows += shadow_run(*_shadow(experiment, functions, federation, number), round)
            on_shadow(number)
        noised = experiment.privacy.noise_multiplier > 0
        return _attacked(targets, shadows, federation, noised=noised, round=round, runs=shadow_runs)


def _shadow(
    experiment: Experiment, functions: Functions, federation: DealtOut, number: int
) -> tuple[Experiment, Functions, DealtOut]:
    other, anew = dealt_anew(experiment, federation, number)
    return other, functions, anew


def _targets(
    path: Path, files: Mapping[int, Path], experiment: Experiment, functions: Functions, federation: DealtOut
) -> tuple[int, list[Told]]:
    """The last round in which clients told of public samples, and what they told."""
    for round, file in sorted(files.items(), reverse=True):
        if tables := tables_in(read_tables(file)):
            last = round
            break
    else:
        raise InputError(f"{path}: its clients upload no table of logits or probabilities, which is what this audit attacks")
    device = device_of(experiment.engine)
    server = Server(experiment, functions, federation, Memory(), device)
    server.round = last
    rows = public_rows(experiment.strategy, server) if federation.public else torch.empty(0)
    targets = []
    for client, (space, table) in tables.items():
        if len(table) != len(rows):
            raise InputError(f"{path}: a table of client {client} has {len(table)} rows, the public samples are {len(rows)}")
        node = Client(client, experiment, functions, federation, Memory(), device)
        final = last == experiment.rounds and _take_net(path, client, node)
        answers = answers_of(experiment.strategy, node, Knowledge()) if final else None
        targets.append(told_by(node, space, table, rows, answers))
    return last, targets


def _take_net(path: Path, client: int, node: Client) -> bool:
    """Put the client's final net into its memory; whether the run left one."""
    from safetensors.torch import load_file

    found = [*(path / "nets").glob(f"client-{client}-*.safetensors")]
    for file in found:
        node.memory.store(f"net/{file.stem.removeprefix(f'client-{client}-')}/", load_file(file))
    return bool(found)


def _attacked(
    targets: Sequence[Told], shadows: Sequence[Told], federation: DealtOut, *, noised: bool, round: int, runs: int
) -> Audit:
    candidates = federation.examples.labelled()
    everyone = [*targets, *shadows]
    held = torch.stack([torch.isin(candidates.indices, told.held) for told in everyone])  # (T + S, N)
    attacks = {}
    views = _views(everyone, COARSE if noised else EXACT)
    sure = _surrogates(everyone, federation, candidates)
    for name, logits in views.items():
        attacks[name] = _membership(sure(logits), held, targets, shadows)
    if all(told.answers is not None for told in everyone):
        answers = torch.stack([told.answers for told in everyone if told.answers is not None])
        kept = torch.isin(federation.examples.indices, candidates.indices)
        known = candidates.labels[candidates.indices]
        attacks[QUERIED] = _membership(log_odds(answers[:, kept], known), held, targets, shadows)
    shares = {name: _label_shares(logits, held, targets, candidates) for name, logits in views.items()}
    return Audit(round, len(targets), len(shadows), runs, attacks, shares)


def _views(everyone: Sequence[Told], least: float) -> dict[str, list[Tensor]]:
    """Name -> the logits (P, C) that an attacker makes of each client's table, as it was uploaded and as each view shows it."""
    uploaded = [told.table if told.space == "logits" else as_logits(told.table, least) for told in everyone]
    chances = [told.table.softmax(1) if told.space == "logits" else told.table for told in everyone]
    rng = generator(0, "audit")
    seen = {name: [as_logits(view(table, rng), COARSE) for table in chances] for name, view in VIEWS.items()}
    return {AS_UPLOADED: uploaded, **seen}


def _surrogates(everyone: Sequence[Told], federation: DealtOut, candidates: Samples) -> Callable[[Sequence[Tensor]], Tensor]:
    """What makes of all tables how sure each surrogate is of each candidate's label, (T + S, N)."""
    public = federation.public
    assert public is not None  # tables speak of its samples
    labels = candidates.labels[candidates.indices]
    there, here = _flat(public.inputs, public), _flat(candidates.inputs, candidates)
    place = {int(id): number for number, id in enumerate(public.indices)}
    weights: dict[bytes, Tensor] = {}  # by the public samples that a table speaks of

    def sure(tables: Sequence[Tensor]) -> Tensor:
        found = []
        for told, table in zip(everyone, tables, strict=True):
            key = told.rows.numpy().tobytes()
            if key not in weights:
                weights[key] = smoother(there[[place[int(id)] for id in told.rows]], here)
            centred = table - table.mean()
            found.append(log_odds((weights[key] @ centred).unsqueeze(0), labels)[0])
        return torch.stack(found)

    return sure


def _flat(inputs: Inputs, samples: Samples) -> Tensor:
    """Samples as a net sees them, each as one row (M, F) of numbers."""
    raw, _, _ = samples.take(torch.arange(len(samples)))
    seen = each(lambda tensor: tensor.double().flatten(1), samples.kind.normalise(raw, samples.moments))
    return seen if isinstance(seen, Tensor) else torch.cat([*seen.values()], 1)


def _membership(sure: Tensor, held: Tensor, targets: Sequence[Told], shadows: Sequence[Told]) -> Attack:
    """Each client is held against the shadows of its own architecture."""
    cut, scores = len(targets), []
    for number, told in enumerate(targets):
        alike = [cut + place for place, shadow in enumerate(shadows) if shadow.architecture == told.architecture]
        scores.append(likelihood_ratios(sure[[number]], sure[alike], held[alike])[0])
    return attack(torch.stack(scores), held[:cut])


def _label_shares(logits: Sequence[Tensor], held: Tensor, targets: Sequence[Told], candidates: Samples) -> Leakage:
    labels = candidates.labels[candidates.indices]
    one_hot = torch.nn.functional.one_hot(labels, candidates.classes).double()  # (N, C)
    counts = held.double() @ one_hot  # (T + S, C)
    truth = counts / counts.sum(1, keepdim=True).clamp(min=1)
    means = torch.stack([table.softmax(1).mean(0, keepdim=True) for table in logits])  # (T + S, 1, C)
    cut = len(targets)
    return leakage(means[:cut], truth[:cut], means[cut:], truth[cut:], one_hot.mean(0))
