"""Teachers of a net at the server: frozen nets of finished runs, or those that clients upload; and what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fedkd.experiment.algorithm.server import Server
from fedkd.experiment.algorithm.train import Split, predict
from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.table import Table
from fedkd.losses.distillers import Shown
from fedkd.methods.architecture_groups import clients_nets
from fedkd.nets import Net, Outputs, copied, features_of

#: Directories of finished runs; none where clients' own nets teach.
Runs = tuple[str, ...]
#: What every teacher says of the samples of a step, in order of the teachers.
Said = Callable[[Shown], list[Outputs]]
#: What is recorded of every net.
NAMES = ("logits", "features")
#: The tensor of an upload that says which classes the client has samples of, 0 or 1 each.
CLASSES = "classes"
#: What a target needs that asks which classes each teacher knows.
SETS = "class_sets"


def ask(net: Net, images: Tensor, needs: Iterable[str]) -> Outputs:
    """What a net gives of images: logits, and features and maps where one of them is needed."""
    return net.outputs(images) if {"features", "maps"} & set(needs) else Outputs(net(images))


def live(nets: Sequence[Net], needs: frozenset[str]) -> Said:
    """Teachers that are asked at every step: for random views, feature maps, and gradients by the images."""

    def say(shown: Shown) -> list[Outputs]:
        with torch.set_grad_enabled("images" in needs):
            return [ask(net, shown.images, needs) for net in nets]

    return say


def record(nets: Iterable[Net], data: Split, needs: frozenset[str]) -> dict[str, Tensor]:
    """What each net says of every sample's un-augmented image: ``0/logits`` (M, C), and ``0/features`` (M, D) if needed."""
    said: dict[str, Tensor] = {}
    for number, net in enumerate(nets):
        net.eval()
        if "features" not in needs:
            said[f"{number}/logits"] = predict(net, data.samples, data.work)
            continue

        def both(images: Tensor, net: Net = net) -> Tensor:
            outputs = net.outputs(images)
            return torch.cat([outputs.logits.float(), features_of(outputs).float()], dim=1)  # (B, C + D)

        rows = predict(both, data.samples, data.work)
        said[f"{number}/logits"], said[f"{number}/features"] = rows[:, : data.samples.classes], rows[:, data.samples.classes :]
    return said


def remembered(said: Mapping[str, Tensor], data: Split) -> Said:
    """Teachers as ``record`` has them, looked up by sample id."""
    tables = {name: Table(data.samples.indices, rows.clone()) for name, rows in said.items()}  # clones, as inference's are
    teachers = len([name for name in tables if name.endswith("/logits")])

    def say(shown: Shown) -> list[Outputs]:
        rows = {name: table.rows(shown.ids).to(shown.images.device) for name, table in tables.items()}
        return [Outputs(rows[f"{number}/logits"], rows.get(f"{number}/features")) for number in range(teachers)]

    return say


def said_by(nets: Iterable[Net], data: Split) -> Said:
    """What these nets say of every sample, logits only, computed now."""
    return remembered(record(nets, data, frozenset({"logits"})), data)


def teachers_say(
    server: Server, runs: Runs, uploads: Mapping[int, Knowledge], data: Split, needs: frozenset[str], *, augmented: bool = False
) -> tuple[Said, tuple[int, ...]]:
    """The teachers of this round, and whose they are: the nets of finished ``runs`` (nobody's), else those in the uploads.

    What they say of un-augmented images is computed once: once a round for uploaded nets, once for the whole run else. A client
    whose net gives a logit that is not finite is left out: its weights passed the guard, but it cannot teach.
    """
    asked_anew = augmented or bool(needs & {"maps", "images"})
    if runs:
        if asked_anew:
            return live([*_nets(server, runs, uploads, needs)], needs), ()
        if not server.memory.under("said/"):
            server.memory.store("said/", record(_nets(server, runs, uploads, needs), data, needs))
        return remembered(server.memory.under("said/"), data), ()
    said = record(_nets(server, runs, uploads, needs), data, frozenset({"logits"}) if asked_anew else needs)
    sound = [n for n in range(len(uploads)) if said[f"{n}/logits"].isfinite().all()]
    clients = tuple(client for n, client in enumerate(uploads) if n in sound)
    if asked_anew:  # copies, as one net in memory is each of its architecture in turn
        nets = _nets(server, (), {client: uploads[client] for client in clients}, needs)
        return live([copied(net).requires_grad_(False) for net in nets], needs), clients
    kept = {f"{new}/{name}": said[f"{n}/{name}"] for new, n in enumerate(sound) for name in NAMES if f"{n}/{name}" in said}
    return remembered(kept, data), clients


def beside_logits(server: Server, runs: Runs, uploads: Mapping[int, Knowledge], needs: frozenset[str]) -> dict[str, Any]:
    """What some targets must know of the teachers beside their logits, as fields of ``fedkd.targets.Evidence``."""
    known: dict[str, Any] = {}
    if SETS in needs:  # (K, C) bool
        sets = [upload.tensors[CLASSES].bool() for upload in uploads.values() if not runs]
        known[SETS] = torch.cat([server.saved_class_sets(run) for run in runs]) if runs else torch.stack(sets)
    if "validation" in needs:
        held = server.validation
        said = record(_nets(server, runs, uploads, needs), held, frozenset({"logits"}))
        known["validation_logits"] = torch.stack([*said.values()])  # (K, V, C)
        known["validation_labels"] = held.samples.labels[held.samples.indices]  # (V,)
    return known


def _nets(server: Server, runs: Runs, uploads: Mapping[int, Knowledge], needs: frozenset[str]) -> Iterator[Net]:
    """One teacher after the other, in order of client id. Use each before taking the next.

    Only a target that asks which classes each of them knows can do with teachers who do not know all.
    """
    if runs:
        yield from (net for run in runs for net in server.saved_nets(run, some_classes=SETS in needs).values())
    else:
        weights = {client: _weights(upload) for client, upload in uploads.items()}
        yield from (net for _, net in clients_nets(server, weights))


def _weights(upload: Knowledge) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in upload.tensors.items() if upload.spaces[name] == "weights"}
