"""A run's transport, as it is opened."""

from __future__ import annotations

from collections.abc import Mapping

from flwr.app import ConfigRecord
from flwr.serverapp import Grid

from fedkd.engine.transport import Transport
from fedkd.experiment.experiment import Experiment
from fedkd.knowledge.channels import ServerChannel


def open_transport(experiment: Experiment, grid: Grid, number: str, beside: Mapping[str, ConfigRecord]) -> Transport:
    """The transport of a run: with its codecs, its number, and the records that go with every message."""
    up = ServerChannel("uplink", experiment.strategy.uplink(experiment))
    down = ServerChannel("downlink", experiment.strategy.downlink(experiment))
    transport = Transport(grid, up=up, down=down, clients=experiment.data.clients, timeout=experiment.timeout)
    transport.run, transport.beside = number, dict(beside)
    return transport
