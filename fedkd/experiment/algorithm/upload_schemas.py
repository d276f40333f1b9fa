"""What the clients of an experiment will upload: the schemas of its rounds, or of a stand-in while there is no data."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from fedkd.base.randomness import derive, generator, seeded
from fedkd.data import Source
from fedkd.experiment.algorithm.algorithm import Algorithm
from fedkd.experiment.algorithm.functions import Functions
from fedkd.experiment.algorithm.server import Server
from fedkd.experiment.algorithm.settings import Settings
from fedkd.knowledge.knowledge import TensorSpec
from fedkd.knowledge.memory import Memory

#: Of the stand-in: enough for whatever a strategy asks of its clients' samples.
CLIENTS, IMAGES = 4, 640
#: So many clients are asked about: what others owe is of a kind with it.
MOST_CLIENTS = 256


def upload_schemas(strategy: Algorithm, server: Server) -> list[Mapping[str, TensorSpec]]:
    """What clients owe in every exchange, of the first round and of the last. Leaves the server as it was."""
    experiment, before = server.experiment, (server.round, server.exchange)
    schemas: list[Mapping[str, TensorSpec]] = []
    with seeded(derive(experiment.seed, "upload schemas")):
        for server.round in dict.fromkeys((1, experiment.rounds)):
            for server.exchange in range(strategy.exchanges_per_round(experiment)):
                schemas += [strategy.upload_schema(server, client) for client in server.clients[:MOST_CLIENTS]]
    server.round, server.exchange = before
    server.release()
    return schemas


def schemas_before_data(strategy: Algorithm, experiment: Settings) -> list[Mapping[str, TensorSpec]]:
    """The schemas of the same strategy on a few made-up images and small nets: sizes differ, what travels does not.

    Empty where the strategy cannot be asked so; it is asked again when its run has its data.
    """
    try:
        stand_in = _stand_in(strategy, experiment)
        server = Server(stand_in, Functions(), stand_in.federation(), Memory(), torch.device("cpu"))
        return upload_schemas(strategy, server)
    except Exception:  # whatever a strategy of the user's own may raise on data that are not its own
        return []


def _stand_in(strategy: Algorithm, experiment: Settings) -> Settings:
    needs, clients = strategy.needs, min(CLIENTS, experiment.data.clients)
    data = {"source": made_up_images, "clients": clients, "partition": "shared" if needs.shared_data else "iid"}
    sets = {"public": 64 if experiment.data.public or experiment.data.public_source else 0, "validation": 64}
    nets = {"nets": "cnn", "shared_net": "cnn", "net_options": {"cnn": {"channels": (4, 8), "hidden": 16}}}
    values = {"rounds": experiment.rounds, "data": data | sets, "train": {"batch_size": 32}, **nets}
    return Settings.model_validate(values)


def made_up_images() -> Source:
    """Noise with labels, ten classes."""
    rng = generator(0, "made-up images")
    images = torch.randint(256, (IMAGES, 1, 8, 8), dtype=torch.uint8, generator=rng)
    labels = torch.arange(IMAGES) % 10
    return Source("made-up images", images, labels, images[:10], labels[:10], tuple(map(str, range(10))))
