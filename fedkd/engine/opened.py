"""A run's transport and its training, as they are opened."""

from __future__ import annotations

from collections.abc import Mapping

from flwr.app import ConfigRecord
from flwr.serverapp import Grid

from fedkd.base.errors import InputError
from fedkd.engine.broadcasts import Broadcasts
from fedkd.engine.clock.buffered import Buffered
from fedkd.engine.pace import Clocked, pace_of
from fedkd.engine.training_round import Exchanges, TrainingRound
from fedkd.engine.transport import Transport
from fedkd.experiment.algorithm.server import Server
from fedkd.experiment.experiment import Experiment
from fedkd.knowledge.channels import ServerChannel


def open_transport(experiment: Experiment, grid: Grid, number: str, beside: Mapping[str, ConfigRecord]) -> Transport:
    """The transport of a run: with its codecs, its number, and the records that go with every message."""
    up = ServerChannel("uplink", experiment.strategy.uplink(experiment))
    down = ServerChannel("downlink", experiment.strategy.downlink(experiment))
    transport = Transport(grid, up=up, down=down, clients=experiment.data.clients, timeout=experiment.timeout)
    transport.run, transport.beside = number, dict(beside)
    return transport


def open_training(experiment: Experiment, server: Server, transport: Transport, broadcasts: Broadcasts) -> TrainingRound:
    """How a run trains: with a cohort a round, or with a buffer of whatever comes.

    Raises InputError for the latter where the clients are nodes of a deployment.
    """
    pace = pace_of(experiment, simulated=transport.simulated)
    if experiment.participation != "async":
        return Exchanges(experiment, server, transport, broadcasts, pace)
    if not isinstance(pace, Clocked):
        raise InputError(
            'participation = "async": the clients are nodes of a deployment, and it goes by the virtual clock of a simulation: '
            "set a share of the clients"
        )
    return Buffered(experiment, server, transport, broadcasts, pace)
