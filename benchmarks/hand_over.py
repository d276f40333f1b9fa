"""What a rival's code is given in ``side_by_side_teachers.py``, to start as fedkd does: a ``Task`` of ``peers/lesson.py``."""

from __future__ import annotations

from pathlib import Path

import torch

from fedkd import Experiment
from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.server import Server
from fedkd.knowledge.memory import Memory
from fedkd.methods.peers.turns import plan
from fedkd.methods.students.saved_nets import load_nets


def write_task(alone: Experiment, twins: Experiment, teacher: str, path: Path) -> None:
    """Write images, initial nets and the order of batches, as fedkd itself makes them.

    Args:
        alone: the run of one student.
        twins: that of two peers on the same samples.
        teacher: the directory of the teacher's run.
        path: the file.
    """
    device = torch.device("cpu")
    server = Server(alone, alone.functions(), alone.run_federation, Memory(), device)
    data, settings = server.split(server.federation.train), alone.train
    ids, inputs, test = data.samples.indices, data.samples.kind.normalise, server.federation.test
    place = torch.full((int(ids.max()) + 1,), -1).scatter_(0, ids, torch.arange(len(ids)))
    nets = {"student": server.net("student").state_dict()}
    nets["teacher"] = next(iter(load_nets(server, teacher).values())).state_dict()
    orders: dict[str, list[torch.Tensor]] = {"student": [], "peers": []}
    for id in range(2):
        peer = Client(id, twins, twins.functions(), twins.run_federation, Memory(), device)
        nets[f"peer {id}"] = peer.net(init="own").state_dict()
    for round in range(1, alone.rounds + 1):
        server.round = peer.round = round
        fresh = server.split(server.federation.train)
        drawn = fresh.of_a_round(settings.batch_size, fresh.rng("batches"))
        orders["student"].append(torch.cat([draw.positions for draw in drawn]))
        joint = plan(peer)
        orders["peers"].append(place[joint.data.samples.indices[torch.cat([draw.positions for draw in joint.draws])]])
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(
        {
            "images": inputs(data.samples.take(torch.arange(len(ids)))[0], data.samples.moments),
            "labels": data.samples.labels[ids],
            "test_images": inputs(test.take(torch.arange(len(test)))[0], test.moments),
            "test_labels": test.labels[test.indices],
            "orders": {who: torch.stack(order) for who, order in orders.items()},
            "nets": nets,
            "seed": alone.seed,
            "milestones": list(settings.milestones),
            **{key: getattr(settings, key) for key in ("batch_size", "lr", "momentum", "weight_decay", "gamma")},
        },
        path,
    )
