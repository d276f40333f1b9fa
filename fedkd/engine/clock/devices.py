"""Which client computes with what: drawn by the seed from shares, or read from a table."""

from __future__ import annotations

import csv
from pathlib import Path

from fedkd.base.errors import InputError
from fedkd.experiment.algorithm.clock_section import Device
from fedkd.experiment.algorithm.net_shares import deal
from fedkd.experiment.experiment import Experiment

COLUMNS = ("client", "gflops", "up", "down", "latency")


def devices_of(experiment: Experiment) -> list[tuple[str, Device]]:
    """The device of each client, with its name: ``client 3`` where a table has a line for each.

    Raises:
        InputError: the table cannot be read, or has not one good line for each client.
    """
    clock, clients = experiment.clock, experiment.data.clients
    if clock.table:
        return [(f"client {client}", device) for client, device in enumerate(_read(Path(clock.table), clients))]
    names = deal(tuple(clock.devices), tuple(clock.devices.values()), clients, experiment.seed, "devices")
    return [(name, clock.device(name)) for name in names]


def _read(path: Path, clients: int) -> list[Device]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"clock.table: {path} cannot be read: {reason}") from None
    found: dict[int, Device] = {}
    for number, line in enumerate(lines, start=2):
        try:
            client, *figures = (float(line[column]) for column in COLUMNS)
            device = Device(**dict(zip(COLUMNS[1:], figures, strict=True)))
        except (KeyError, TypeError, ValueError):
            wanted = f"client, gflops, up, down (above 0) and latency (0 or more), with the heading {','.join(COLUMNS)}"
            raise InputError(f"clock.table: {path}, line {number} does not hold {wanted}") from None
        if client in found or client not in range(clients):
            why = "stands there twice" if client in found else f"is none of the {clients} clients, 0 to {clients - 1}"
            raise InputError(f"clock.table: {path}, line {number}: client {line['client']} {why}")
        found[int(client)] = device
    if missing := sorted(set(range(clients)) - found.keys()):
        raise InputError(f"clock.table: {path} has no line for client {missing[0]}: give each of {clients} clients one")
    return [found[client] for client in range(clients)]
