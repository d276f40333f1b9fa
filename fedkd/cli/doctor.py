"""fedkd doctor: what a machine has of what fedkd needs, and how many clients of an experiment fit on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedkd.cli.launch import parse_changes

if TYPE_CHECKING:
    from fedkd.experiment.experiment import Experiment


def doctor(
    file: Annotated[
        Path | None,
        typer.Argument(help="An experiment: how many of its clients fit on this machine at once.", show_default=False),
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replaces a key of FILE, e.g. engine.num_cpus=2.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say whether this machine is ready: versions, cores, memory, GPU, data; of FILE, how many clients fit at once."""
    overrides = parse_changes(changes or [])
    results = findings()
    if file is not None:
        from fedkd.experiment.experiment import Experiment

        results += clients_at_once(Experiment.from_toml(file, overrides))
    if as_json:
        print(json.dumps([vars(finding) for finding in results], indent=1))
    else:
        for finding in results:
            print(f"{'ok  ' if finding.ok else 'BAD '} {finding.name:<14} {finding.text}")
        following = f"fedkd run {file or 'FILE'}"
        print(f"All good. Next: {following}" if all(finding.ok for finding in results) else "Cure what is marked BAD.")
    if not all(finding.ok for finding in results):
        raise typer.Exit(1)


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's: what was looked at, whether it is as it must be, and what was found."""

    name: str
    ok: bool
    text: str


def findings() -> list[Finding]:
    """Look at everything; nothing is downloaded and nothing is sent."""
    return [*_packages(), *_machine(), *_data(), _telemetry()]


def clients_at_once(experiment: Experiment) -> list[Finding]:
    """How many clients of an experiment fit at once: by cores, by GPUs, and by the memory that one was measured to take."""
    from fedkd.engine.one_clients_memory import OneClient, measure
    from fedkd.engine.sweep.carry_out import footprint
    from fedkd.results.environment import cores, gpus, memory
    from fedkd.results.statistics import size

    engine, there, own = experiment.engine, memory(), experiment.data.clients
    found = measure(experiment)
    if isinstance(found, OneClient):
        idle, each, how = found.idle, found.peak, "measured: a process that ran one client for a round, with the server"
    else:
        idle = each = footprint()
        how = f"guessed: the libraries and half as much again, as nothing could be measured: {found}"
    limits = {
        f"cores: {cores()}, {engine.num_cpus} each": cores() // engine.num_cpus,
        f"memory: {size(there)}, {size(each)} each": max(0, there - idle) // each,
        "clients": own,
    }
    if engine.num_gpus:
        limits[f"GPUs: {len(gpus())}, {engine.num_gpus:g} each; their memory was not measured"] = int(
            len(gpus()) / engine.num_gpus
        )
    at_once = min(limits.values())
    least = next(limit for limit, count in limits.items() if count == at_once)
    text = f"{at_once} of {own}, limited by {least}" if least != "clients" else f"all {own}"
    actors = f"; on Ray: engine.actors = {at_once}" if at_once else ""
    return [Finding("one client", True, f"{size(each)} ({how})"), Finding("at once", at_once > 0, f"{text}{actors}")]


def _packages() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    from fedkd.results.environment import versions

    try:
        wanted = {r.name: r.specifier for r in map(Requirement, requires("fedkd") or ()) if r.marker is None}
    except PackageNotFoundError:
        wanted = {}
    for name, version in versions().items():
        if version is None:
            yield Finding(name, name == "fedkd", "not installed" if name != "fedkd" else "used from a plain checkout")
        elif name in wanted and not wanted[name].contains(version, prereleases=True):
            yield Finding(name, False, f"{version}, but fedkd needs {wanted[name]}")
        else:
            yield Finding(name, True, version)


def _machine() -> Iterator[Finding]:
    from fedkd.results.environment import cores, cpu_model, gpus, memory
    from fedkd.results.statistics import size

    names = gpus()
    yield Finding("cores", True, f"{cores()} ({cpu_model()})")
    yield Finding("memory", True, f"{size(memory())}, this control group's limit included")
    yield Finding("gpu", True, ", ".join(names) or "none: everything runs on the CPU")


def _data() -> Iterator[Finding]:
    from fedkd.data.idx import DEBIAN_FASHION_MNIST

    has_digits = find_spec("sklearn") is not None
    yield Finding("digits", has_digits, "comes with scikit-learn" if has_digits else "install scikit-learn")
    there = DEBIAN_FASHION_MNIST.is_dir()
    elsewhere = "not here: apt-get install dataset-fashion-mnist, or set data.path, or it is downloaded when asked for"
    yield Finding("fashion_mnist", True, str(DEBIAN_FASHION_MNIST) if there else elsewhere)


def _telemetry() -> Finding:
    return Finding(
        "telemetry",
        True,
        "none: fedkd has none and starts Ray without; where you start Flower's own programs, set FLWR_TELEMETRY_ENABLED=0",
    )
