"""How much disk the clients of a simulation take: what one of them keeps is tried out before the run begins."""

from __future__ import annotations

import shutil
import warnings
from contextlib import suppress
from pathlib import Path

import torch
from flwr.app import RecordDict

from fedkd.base.errors import InputError, Notice
from fedkd.base.randomness import derive, seeded, torch_threads
from fedkd.engine.run import Run
from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.functions import Functions
from fedkd.experiment.algorithm.participation import cohort_size
from fedkd.experiment.algorithm.record_section import Record
from fedkd.experiment.named_nets import nets_of
from fedkd.grids.contexts import HELD_BYTES
from fedkd.knowledge.memory import Memory
from fedkd.results.statistics import size

#: With nets of fewer bytes at all clients together nothing is said, as any disk has room for what they keep.
WORTH_SAYING = HELD_BYTES // 4


def say_room(run: Run, functions: Functions, place: Path, keeps: Record | None = None) -> None:
    """Tell of the room that what the clients keep takes at most at this place; of little nothing is said.

    ``keeps``: which checkpoints stay there; None: it is for a temporary file of what has no room in memory.

    Raises:
        InputError: there is not so much.
    """
    clients = run.experiment.data.clients
    if not run.transport.simulated or clients * _bytes_of_nets(run) < WORTH_SAYING or not (each := _kept_bytes(run, functions)):
        return
    if keeps is None:
        if clients * each <= HELD_BYTES:
            return
        most, versions = clients, "in a temporary file, gone at the end; name a directory with out to keep it"
    else:  # the newest, that of the best round, each participant's of the rounds between, and the final nets
        most = clients * (3 if keeps.best else 2) + cohort_size(run.experiment) * (keeps.checkpoints + 2)
        versions = "with what the checkpoints that stay need of it, and the final nets"
    free = shutil.disk_usage(next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.is_dir())).free
    wanted, room = size(most * each), size(free)
    text = f"what {clients} clients keep ({size(each)} each) takes up to {wanted} of disk in {place}, {versions}"
    if most * each > free:
        cure = 'make room, give another directory, or keep less (record.best = "", record.checkpoints = 1)'
        raise InputError(f"{text}; {room} are free there: {cure if keeps else 'make room, or set TMPDIR to another directory'}")
    warnings.warn(f"{text}; {room} are free there", Notice, stacklevel=2)


def _bytes_of_nets(run: Run) -> int:
    """Bytes of the largest of the run's nets."""
    largest = 0
    for name in nets_of(run.experiment):
        with suppress(Exception), seeded(0):  # one that cannot be built here is one that nobody asks for
            tensors: list[torch.Tensor] = [*run.server.fresh_net(architecture=name).state_dict().values()]
            largest = max(largest, sum(tensor.nbytes for tensor in tensors))
    return largest


def _kept_bytes(run: Run, functions: Functions) -> int:
    """Bytes that a client keeps after its first exchange, on a batch of its samples; 0 where that cannot be tried here."""
    experiment, server = run.experiment, run.server
    client = Client(0, experiment, functions, server.federation, Memory(), server.device)
    client.round, client.simulated = 1, True
    broadcast = run.broadcasts.to(0)
    with torch_threads(experiment.engine.num_cpus), seeded(derive(experiment.seed, "room")), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            few = min(len(client.train_samples), experiment.train.batch_size)
            client.train_samples = client.train_samples.subset(torch.arange(few))
            upload = experiment.strategy.client_update(client, broadcast)
            client.flush()
        except Exception:  # whatever a strategy or a net of the user's own raises on so few: its run says it better
            return 0
        finally:
            client.release()
    client.memory.write(records := RecordDict())
    bases: int = 2 * (upload.raw_bytes * run.transport.up.needs_base + broadcast.raw_bytes * run.transport.down.needs_base)
    arrays: int = sum(len(array.data) for record in records.array_records.values() for array in record.values())
    return bases + arrays
