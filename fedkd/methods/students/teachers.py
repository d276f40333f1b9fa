"""Teachers of a net at the server: frozen nets of finished runs, or those that clients upload; and their outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fedkd.base.inputs import Inputs
from fedkd.experiment.algorithm.server import Server
from fedkd.experiment.algorithm.train import Split, predict
from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.table import Table
from fedkd.losses.distillers import Shown
from fedkd.methods.architecture_groups import clients_nets
from fedkd.methods.students.saved_nets import known_classes, load_nets
from fedkd.nets import Net, Outputs, copied, features_of

#: Directories of finished runs; none where clients' own nets teach.
Runs = tuple[str, ...]
#: From the samples of a step to the outputs of every teacher, in order of the teachers.
Teachers = Callable[[Shown], list[Outputs]]
#: What is recorded of every net.
NAMES = ("logits", "features")
#: The tensor of an upload that says which classes the client has samples of, 0 or 1 each.
CLASSES = "classes"
#: What a target needs that asks which classes each teacher knows.
SETS = "class_sets"


def compute_outputs(net: Net, inputs: Inputs, needs: Iterable[str]) -> Outputs:
    """A net's outputs of samples: logits, and features and maps where one of them is needed."""
    return net.outputs(inputs) if {"features", "maps"} & set(needs) else Outputs(net(inputs))


def live_teachers(nets: Sequence[Net], needs: frozenset[str]) -> Teachers:
    """Teachers that compute at every step: for random views, feature maps, and gradients by the samples."""

    def outputs(shown: Shown) -> list[Outputs]:
        with torch.set_grad_enabled("inputs" in needs):
            return [compute_outputs(net, shown.inputs, needs) for net in nets]

    return outputs


def example_outputs(server: Server, student: Net, data: Split, teachers: Teachers) -> tuple[Outputs, list[Outputs]]:
    """All that the student and its teachers give of two samples, which tells the shapes of maps and features."""
    example = next(data.batches(epochs=1, batch_size=2, rng=server.lasting_rng("examples")))
    with torch.no_grad():
        return student.eval().outputs(example.inputs), teachers(Shown(example.inputs, example.labels, example.ids))


def record(nets: Iterable[Net], data: Split, needs: frozenset[str]) -> dict[str, Tensor]:
    """Each net's outputs of every sample, un-augmented: ``0/logits`` (M, C), and ``0/features`` (M, D) if needed."""
    recorded: dict[str, Tensor] = {}
    for number, net in enumerate(nets):
        net.eval()
        if "features" not in needs:
            recorded[f"{number}/logits"] = predict(net, data.samples, data.work)
            continue

        def both(inputs: Inputs, net: Net = net) -> Tensor:
            outputs = net.outputs(inputs)
            return torch.cat([outputs.logits.float(), features_of(outputs).float()], dim=1)  # (B, C + D)

        rows = predict(both, data.samples, data.work)
        classes = data.samples.classes
        recorded[f"{number}/logits"], recorded[f"{number}/features"] = rows[:, :classes], rows[:, classes:]
    return recorded


def recorded_teachers(recorded: Mapping[str, Tensor], data: Split) -> Teachers:
    """Teachers whose outputs ``record`` has computed, looked up by sample id."""
    tables = {name: Table(data.samples.indices, rows.clone()) for name, rows in recorded.items()}  # clones, as inference's are
    teachers = len([name for name in tables if name.endswith("/logits")])

    def outputs(shown: Shown) -> list[Outputs]:
        rows = {name: table.rows(shown.ids).to(shown.labels.device) for name, table in tables.items()}
        return [Outputs(rows[f"{number}/logits"], rows.get(f"{number}/features")) for number in range(teachers)]

    return outputs


def make_teachers(
    server: Server, runs: Runs, uploads: Mapping[int, Knowledge], data: Split, needs: frozenset[str], *, augmented: bool = False
) -> tuple[Teachers, tuple[int, ...]]:
    """The teachers of this round, and whose they are: the nets of finished ``runs`` (nobody's), else those in the uploads.

    Outputs of un-augmented samples are computed once: once a round for uploaded nets, once for the whole run else. A client
    whose net gives a logit that is not finite is left out: its weights passed the guard, but it cannot teach.
    """
    every_step = augmented or bool(needs & {"maps", "inputs"})
    if runs:
        if every_step:
            return live_teachers([*_nets(server, runs, uploads, needs)], needs), ()
        if not server.memory.under("said/"):
            server.memory.store("said/", record(_nets(server, runs, uploads, needs), data, needs))
        return recorded_teachers(server.memory.under("said/"), data), ()
    recorded = record(_nets(server, runs, uploads, needs), data, frozenset({"logits"}) if every_step else needs)
    sound = [n for n in range(len(uploads)) if recorded[f"{n}/logits"].isfinite().all()]
    clients = tuple(client for n, client in enumerate(uploads) if n in sound)
    if every_step:  # copies, as one net in memory is each of its architecture in turn
        nets = _nets(server, (), {client: uploads[client] for client in clients}, needs)
        return live_teachers([copied(net).requires_grad_(False) for net in nets], needs), clients
    kept = {
        f"{new}/{name}": recorded[f"{n}/{name}"] for new, n in enumerate(sound) for name in NAMES if f"{n}/{name}" in recorded
    }
    return recorded_teachers(kept, data), clients


def beside_logits(server: Server, runs: Runs, uploads: Mapping[int, Knowledge], needs: frozenset[str]) -> dict[str, Any]:
    """What some targets must know of the teachers beside their logits, as fields of ``fedkd.targets.Evidence``."""
    known: dict[str, Any] = {}
    if SETS in needs:  # (K, C) bool
        sets = [upload.tensors[CLASSES].bool() for upload in uploads.values() if not runs]
        known[SETS] = torch.cat([known_classes(server, run) for run in runs]) if runs else torch.stack(sets)
    if "validation" in needs:
        validation = server.validation
        recorded = record(_nets(server, runs, uploads, needs), validation, frozenset({"logits"}))
        known["validation_logits"] = torch.stack([*recorded.values()])  # (K, V, C)
        known["validation_labels"] = validation.samples.labels[validation.samples.indices]  # (V,)
    return known


def _nets(server: Server, runs: Runs, uploads: Mapping[int, Knowledge], needs: frozenset[str]) -> Iterator[Net]:
    """One teacher after the other, in order of client id. Use each before taking the next.

    Only a target that asks which classes each of them knows can do with teachers who do not know all.
    """
    if runs:
        yield from (net for run in runs for net in load_nets(server, run, some_classes=SETS in needs).values())
    else:
        weights = {client: _weights(upload) for client, upload in uploads.items()}
        yield from (net for _, net in clients_nets(server, weights))


def _weights(upload: Knowledge) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in upload.tensors.items() if upload.spaces[name] == "weights"}
